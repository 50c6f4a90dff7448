package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// evidenceFolder has the records of both ends of a flow, and a refusal.
func evidenceFolder(t *testing.T) string {
	t.Helper()
	at := time.Date(2026, 3, 10, 12, 30, 0, 0, time.UTC)
	consumer := api.FlowRecord{Node: "node-a", Boot: "b", Sequence: 1, Account: "111122223333", Interface: "eni-a", VPC: "vpc-shop",
		LogStatus: "OK", Action: api.ActionAccept, Reason: "FORWARDED", Side: "consumer", Stage: "workload", Direction: "egress", Protocol: 6,
		Connection: "vpce-con-1", Service: "vpce-svc-1", ServiceName: "pay/ledger", Start: at, End: at.Add(time.Second),
		Tuple:      api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 4000, DstAddr: "10.0.1.99", DstPort: 443},
		Translated: api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 4000, DstAddr: "10.0.2.7", DstPort: 8443}, Packets: 10, Bytes: 1000,
		ReplyPackets: 7, ReplyBytes: 900}
	provider := consumer
	provider.Node, provider.Account, provider.Interface, provider.VPC = "node-b", "444455556666", "eni-b", "vpc-pay"
	provider.Side, provider.Stage, provider.Direction, provider.Packets, provider.ReplyPackets = "provider", "tunnel", "ingress", 8, 8
	provider.Tuple = consumer.Translated
	refused := consumer
	refused.Sequence, refused.Action, refused.Reason, refused.ReplyPackets = 2, api.ActionReject, "GROUP_EGRESS", 0
	refused.Tuple.DstPort, refused.Translated = 22, api.FlowTuple{}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "segments/node-a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, r := range []api.FlowRecord{consumer, provider, refused} {
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		b = append(append(b, line...), '\n')
	}
	if err := os.WriteFile(filepath.Join(dir, "segments/node-a/b/2026-03-10T12.ndjson"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestFlowsOfFiles: questions to a folder need no server, and are answered in every form.
func TestFlowsOfFiles(t *testing.T) {
	clearEnvironment(t, t.TempDir())
	dir := evidenceFolder(t)
	for _, test := range []struct{ args, want string }{
		{"flows query --from DIR --group-by action,reason -o csv", `action,reason,lines,packets,bytes,first,last
ACCEPT,FORWARDED,4,33,3800,2026-03-10T12:30:00Z,2026-03-10T12:30:01Z
REJECT,GROUP_EGRESS,1,10,1000,2026-03-10T12:30:00Z,2026-03-10T12:30:01Z
`},
		{"flows query --from DIR --group-by dstport --where flow-direction=egress --action ACCEPT --order packets --top 1 -o csv",
			`dstport,lines,packets,bytes,first,last
443,1,10,1000,2026-03-10T12:30:00Z,2026-03-10T12:30:01Z
`},
		{"flows query --from DIR --fields srcaddr,dst_port --action REJECT -o csv", "no field"},
		{"flows query --from DIR --fields srcaddr,dstport --action REJECT -o csv", "srcaddr,dstport\n10.0.1.5,22\n"},
		{"flows query --from DIR --join -o csv",
			"2026-03-10T12:30:00Z,2026-03-10T12:30:01Z,vpce-con-1,tcp,10.0.1.5:4000,10.0.2.7:8443,10,8,2,8,7,1,pay/ledger\n"},
		{"flows query --from DIR --service pay/ledger --protocol tcp --port 22 -o json", `"reason": "GROUP_EGRESS"`},
		{"flows query --from DIR --account 444455556666 --group-by interface-id -o csv", "eni-b,2,16,1900"},
		{"flows query --from DIR --since 2026-03-11T00:00:00Z --group-by action", ""},
		{"report top-talkers --from DIR --since 2026-03-10T00:00:00Z --until 2026-03-11T00:00:00Z -o csv",
			"111122223333,vpc-shop,10.0.1.5,10.0.1.99,tcp,pay/ledger,10,1000,"},
		{"report refused --from DIR --since 2026-03-10T00:00:00Z -o json", `"reason": "GROUP_EGRESS"`},
		{"report new-pairs --from DIR --since 2026-03-10T12:00:00Z --lookback 2026-03-01T00:00:00Z -o csv", "10.0.1.5,10.0.1.99,443,tcp,pay/ledger,consumer"},
	} {
		args := strings.Fields(strings.ReplaceAll(test.args, "DIR", dir))
		status, out, errOut := once(t, args...)
		if test.want == "no field" {
			if status == 0 || !strings.Contains(errOut, "dst-port") {
				t.Errorf("%s: status %d, %s", test.args, status, errOut)
			}
			continue
		}
		if status != 0 || !strings.Contains(out, test.want) || test.want == "" && out != "" {
			t.Errorf("%s: status %d\n%s\n%s\nwant %s", test.args, status, out, errOut, test.want)
		}
	}
}

func TestFlowsOfFilesRefuse(t *testing.T) {
	clearEnvironment(t, t.TempDir())
	dir := evidenceFolder(t)
	for args, want := range map[string]string{
		"flows query --from /nowhere":                                     "--from",
		"flows query --from DIR --group-by srcaddr --fields dstaddr":      "--group-by",
		"flows query --from DIR --group-by srcaddr --order size":          "--order",
		"flows query --from DIR --where srcaddr":                          "--where",
		"flows query --from DIR --protocol sctpx":                         "--protocol",
		"flows query --from DIR --vpc main":                               "--vpc",
		"flows query --from DIR --group-by srcaddr --top=-1":              "--top",
		"flows query --from DIR --group-by srcaddr --max-groups 1 --join": "--group-by",
		"flows query --from DIR --group-by interface-id --max-groups 1":   "--group-by",
		"flows query --local --group-by srcaddr":                          "--local",
		"report new-pairs --from DIR --since 1h --lookback 30m":           "--lookback",
		"report refused --from DIR -q":                                    "--quiet",
		"version -o csv":                                                  "--output",
	} {
		status, _, errOut := once(t, strings.Fields(strings.ReplaceAll(args, "DIR", dir))...)
		if status == 0 || !strings.Contains(errOut, want) {
			t.Errorf("%s: status %d, %q does not name %s", args, status, errOut, want)
		}
	}
}

// TestFilesSayWhatTheyLack: names of accounts need a server, lines that are left out are told, and what sums need is demanded.
func TestFilesSayWhatTheyLack(t *testing.T) {
	clearEnvironment(t, t.TempDir())
	dir := evidenceFolder(t)
	status, _, errOut := once(t, "flows", "query", "--from", dir, "--account", "pay", "--group-by", "action")
	if status == 0 || !strings.Contains(errOut, "--account") || !strings.Contains(errOut, "id") {
		t.Errorf("an account's name without a server: status %d, %s", status, errOut)
	}
	many := t.TempDir()
	var b strings.Builder
	b.WriteString("srcaddr end\n")
	for range 1500 {
		b.WriteString("10.0.1.5 1773145800\n")
	}
	if err := os.WriteFile(filepath.Join(many, "flows.log"), []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	status, out, errOut := once(t, "flows", "query", "--from", many, "--fields", "srcaddr", "-o", "csv")
	if status != 0 || strings.Count(out, "10.0.1.5") != 1000 || !strings.Contains(errOut, "newest 1000 of 1500") {
		t.Errorf("status %d, %d lines, %s", status, strings.Count(out, "10.0.1.5"), errOut)
	}
	status, out, errOut = once(t, "flows", "query", "--from", many, "--fields", "srcaddr", "-o", "csv", "--limit", "1500")
	if status != 0 || strings.Count(out, "10.0.1.5") != 1500 || strings.Contains(errOut, "newest") {
		t.Errorf("status %d, %d lines, %s", status, strings.Count(out, "10.0.1.5"), errOut)
	}
	for _, args := range []string{"flows query --group-by srcaddr", "report new-pairs --since 2026-03-01T00:00:00Z --lookback 2026-01-01T00:00:00Z"} {
		status, _, errOut = once(t, append(strings.Fields(args), "--from", many)...)
		if status == 0 || !strings.Contains(errOut, "no field") {
			t.Errorf("%s of files without packets: status %d, %s", args, status, errOut)
		}
	}
}
