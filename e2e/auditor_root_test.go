package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/bundle"
	"github.com/culvert-net/culvert/audit/format"
)

// shown is what a command of docs/COMPLIANCE.md must print: as which account ("" is the administrator), and words of it.
type shown struct {
	account string
	words   string
	fails   bool // with these words
}

// auditorsCommands are all of that document, over what TestWhatAuditorsAsk has done.
var auditorsCommands = map[string]shown{
	"sg list":                            {"pay", "default", false},
	"sg list -o json":                    {"pay", `"fromPort": 443`, false},
	"audit list":                         {"", "accept-connections reject-connections", false},
	"audit list -o json":                 {"", `"requestId" "source" "changes" "outcome"`, false},
	"audit list --outcome success":       {"", "accept-connections", false},
	"audit list --outcome denied":        {"", "create-account", false},
	"audit list --action query-flows":    {"", "query-flows", false},
	"audit list --action start-server":   {"", "start-server", false},
	"audit list --action create-api-key": {"", "create-api-key", false},
	"flows query --since 720h --group-by consumer-vpc-id,provider-vpc-id,service-name": {"shop", "pay/ledger", false},
	"flows query --since 720h --port 23 --group-by srcaddr,dstaddr,action":             {"shop", "10.0.1.5 10.0.1.77", false},
	"flows query --reason SPOOFED_ADDRESS":                                             {"shop", "10.0.1.222", false},
	"flows query --since 1h":                                                           {"shop", "10.0.1.5 pay/ledger", false},
	"flows query --since 168h --join":                                                  {"pay", "pay/ledger", false},
	"flows query --since 24h --join":                                                   {"pay", "pay/ledger", false},
	"flows query --since 24h --group-by srcaddr,dstport":                               {"shop", "10.0.1.5 443", false},
	"flows query --fields node,boot-id,sequence --since 1h":                            {"shop", "node-", false},
	"flows query --reason FLOW_REVOKED --since 24h":                                    {"shop", "FLOW_REVOKED", false},
	"flows query --from /srv/flow-logs --since 2160h --group-by action":                {"shop", "ACCEPT REJECT", false},
	"flows verify DIR --keys FILE":                                                     {"", "VERIFIED", false},
	"report top-talkers --since 24h":                                                   {"shop", "10.0.1.5 pay/ledger", false},
	"report top-talkers --since 720h":                                                  {"shop", "10.0.1.5 pay/ledger", false},
	"report refused":                                                                   {"shop", "SPOOFED_ADDRESS FLOW_REVOKED", false},
	"report refused --since 24h":                                                       {"shop", "SPOOFED_ADDRESS", false},
	"report refused --since 168h":                                                      {"shop", "SPOOFED_ADDRESS", false},
	"report refused --since 2160h -o csv":                                              {"shop", "SPOOFED_ADDRESS", false},
	"report new-pairs --since 168h":                                                    {"shop", "10.0.1.5 pay/ledger", false},
	"report unused-rules --since 4320h --from /srv/flow-logs":                          {"pay", "5432", false},
	"report approvals":                                                                 {"pay", "vpce-svc- Rejected Available first-admin", false},
	"report approvals --since 2160h":                                                   {"pay", "vpce-svc- Rejected Available", false},
	"report daily":                                                                     {"", "no day was over yet", true},
	"retention list":                                                                   {"", "segments audit deliveries", false},
	"status":                                                                           {"", "host-a host-b", false},
	"status --counters":                                                                {"", "FORWARDED", false},
	"explain --from cart --to ledger.pay.internal:443":                                 {"shop", "allowed", false},
	"doctor --all":                                                                     {"", "clock", false},
}

// TestWhatAuditorsAsk has traffic that was let in, refused and cut off, and decisions about it, and asks of it what docs/COMPLIANCE.md says
// that auditors ask: each of its commands answers. Flow logs of each kind of resource tell it, and a bundle of evidence stands for itself.
func TestWhatAuditorsAsk(t *testing.T) {
	a := &audited{world: mesh(t), began: time.Now().UTC().Truncate(time.Second)}
	a.echoServer(t)
	a.endpoint = must(a.as("shop").GetEndpoint(t.Context(), "ledger"))(t)
	a.flowLogs(t)
	a.traffic(t)
	t.Run("flow logs", a.delivered)
	a.copyEvidence(t)
	t.Run("commands", a.commands)
	t.Run("bundle", a.bundled)
	t.Run("past", a.past)
}

// audited is what happened since a time.
type audited struct {
	*world
	began            time.Time
	rejected, joined time.Time // the connection was cut off, and let in again
	endpoint         *api.Endpoint
	logs             []scopedLog
	evidence         evidence
}

// scopedLog is a flow log of one kind of resource.
type scopedLog struct {
	account, id string
	request     api.CreateFlowLogRequest
	field       string // that all its lines have one value of
	value       string
}

// flowLogs makes one of each kind, in another form each.
func (a *audited) flowLogs(t *testing.T) {
	shop := a.as("shop")
	cart := must(shop.GetENI(t.Context(), "cart"))(t)
	pay := must(a.as("").GetAccount(t.Context(), "pay"))(t)
	ledger := must(a.as("pay").GetService(t.Context(), "ledger"))(t)
	for i, s := range []scopedLog{
		{"shop", "", api.CreateFlowLogRequest{ResourceType: api.FlowLogVPC, Resource: "shop", FileFormat: api.FileParquet}, "vpc-id", cart.VPC},
		{"shop", "", api.CreateFlowLogRequest{ResourceType: api.FlowLogSubnet, Resource: "shop", FileFormat: api.FileJSON}, "subnet-id", cart.Subnet},
		{"shop", "", api.CreateFlowLogRequest{ResourceType: api.FlowLogENI, Resource: "cart", HiveCompatiblePartitions: true}, "interface-id", cart.ID},
		{"shop", "", api.CreateFlowLogRequest{ResourceType: api.FlowLogEndpoint, Resource: "ledger", PerHourPartition: true}, "endpoint-id", a.endpoint.ID},
		{"pay", "", api.CreateFlowLogRequest{ResourceType: api.FlowLogService, Resource: "ledger", FileFormat: api.FileParquet}, "service-id", ledger.ID},
		{"pay", "", api.CreateFlowLogRequest{ResourceType: api.FlowLogAccount, FileFormat: api.FileParquet}, "account-id", pay.ID},
	} {
		r := &s.request
		r.Name, r.LogFormat = "audit-"+string(r.ResourceType), format.All
		r.Destination, r.MaxAggregationIntervalSeconds = r.Name, api.AggregationIntervals[i%len(api.AggregationIntervals)]
		s.id = must(a.as(s.account).CreateFlowLog(t.Context(), *r))(t).ID
		a.logs = append(a.logs, s)
		undo(t, r.Name, func(ctx context.Context) error {
			_, err := a.as(s.account).DeleteFlowLog(ctx, s.id)
			return err
		})
	}
}

// traffic is let in, refused, cut off and let in again.
func (a *audited) traffic(t *testing.T) {
	for range 5 {
		if err := a.echo(t.Context()); err != nil {
			t.Error(err)
		}
	}
	_, _ = a.run(t, "cart", "socat", "-u", "/dev/null", "TCP4:10.0.1.77:23,connect-timeout="+seconds(1))
	newTaps(t).send(t, wl("cart"), "eni0", netip.MustParseAddr("10.0.1.222"), []cell{{number: 1, from: "cart", to: "10.0.1.77", protocol: api.UDP, port: 9}})
	if _, _, status := a.ask(t, "shop", "account create denied"); status == 0 {
		t.Error("an account makes an account")
	}
	a.start(t, "cart", "sh", "-c", "while sleep 0.2; do echo on; done | socat -t 60 - TCP4:"+a.ledgerAddress()+":443")
	flows := func(words string) error {
		out, errs, status := a.ask(t, "shop", "flows query -o csv "+words)
		if status != 0 || strings.Count(out, "\n") < 2 {
			return fmt.Errorf("%s: %s%s", words, out, errs)
		}
		return nil
	}
	eventually(t, 30*time.Second, "all of it is recorded", func() error {
		return errors.Join(flows("--reason SPOOFED_ADDRESS"), flows("--port 23"), flows("--service pay/ledger --action ACCEPT"))
	})
	pause(t.Context(), 1100*time.Millisecond) // times of the audit log are asked for by the second
	undo(t, "what cuts off", func(ctx context.Context) error {
		if !a.joined.IsZero() {
			return nil
		}
		_, err := a.as("pay").AcceptConnections(ctx, "ledger", []string{a.endpoint.ID})
		return err
	})
	if out, errs, status := a.ask(t, "pay", "service reject ledger "+a.endpoint.ID+" --wait"); status != 0 {
		t.Fatal(out, errs)
	}
	a.rejected = time.Now()
	eventually(t, 60*time.Second, "what is cut off is recorded", func() error { return flows("--reason FLOW_REVOKED") })
	pause(t.Context(), 1100*time.Millisecond)
	if out, errs, status := a.ask(t, "pay", "service accept ledger "+a.endpoint.ID+" --wait"); status != 0 {
		t.Fatal(out, errs)
	}
	a.joined = time.Now().Add(time.Second)
	eventually(t, 20*time.Second, "let in again", func() error { return a.echo(t.Context()) })
	pause(t.Context(), 1100*time.Millisecond) // flows are asked for by the second, too
	last := time.Now().UTC().Format(time.RFC3339)
	if err := a.echo(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, 30*time.Second, "the last flow is recorded, and so all before it", func() error {
		return flows("--eni cart --where state=closed --where reason=FORWARDED --since " + last)
	})
}

// ask runs a command line as an account.
func (a *audited) ask(t *testing.T, account, line string) (stdout, stderr string, status int) {
	t.Helper()
	return a.output(t, account, strings.Fields(line)...)
}

// delivered: an edit sends what came before it, so nobody waits for the end of a window. Each flow log has its resource's lines and no others,
// and the three that have the interface tell the same of it.
func (a *audited) delivered(t *testing.T) {
	for _, s := range a.logs {
		name := s.request.Name
		if out, errs, status := a.ask(t, s.account, "flow-log modify "+name+" --traffic-type ACCEPT"); status != 0 {
			t.Fatal(out, errs)
		}
	}
	cart := must(a.as("shop").GetENI(t.Context(), "cart"))(t).ID
	told := map[string]map[string]uint64{} // packets by flow log and interface
	for _, s := range a.logs {
		name := s.request.Name
		eventually(t, 60*time.Second, "files of "+name, func() error {
			lines, _, err := linesIn(a.deliveries(t, s))
			if err != nil {
				return err
			}
			told[name], err = s.judge(lines)
			return err
		})
	}
	if n := told["audit-eni"][cart]; n == 0 || told["audit-vpc"][cart] != n || told["audit-subnet"][cart] != n {
		t.Errorf("of one interface the flow logs tell %v", told)
	}
	if other := slices.Sorted(maps.Keys(told["audit-endpoint"])); !slices.Contains(other, "") || !slices.Contains(other, cart) {
		t.Errorf("of both ends of the endpoint's flows there are lines of %q, want the own interface and one that is not named", other)
	}
}

// judge demands that all lines are of the resource, and sums packets to the service by interface.
func (s *scopedLog) judge(lines []map[string]string) (map[string]uint64, error) {
	sums := map[string]uint64{}
	for _, l := range lines {
		if l["log-status"] != format.StatusOK {
			continue
		}
		if l[s.field] != s.value || l["version"] != "11" {
			return nil, fmt.Errorf("a line of another one: %v", l)
		}
		if l["service-name"] == "pay/ledger" && l["action"] == api.ActionAccept {
			n, err := strconv.ParseUint(l["packets"], 10, 64)
			if err != nil {
				return nil, err
			}
			sums[l["interface-id"]] += n
		}
	}
	if len(sums) == 0 {
		return nil, fmt.Errorf("in %d lines there is none of the service", len(lines))
	}
	return sums, nil
}

// deliveries is where files of a flow log are.
func (a *audited) deliveries(t *testing.T, s scopedLog) string {
	t.Helper()
	return a.lab.StateDir("server", "deliveries", must(a.as("").GetAccount(t.Context(), s.account))(t).ID, s.request.Name)
}

// copyEvidence copies the evidence when both nodes have sealed all of it.
func (a *audited) copyEvidence(t *testing.T) {
	done := time.Now().Add(time.Second)
	eventually(t, 90*time.Second, "seals of both nodes", func() error {
		if err := a.echo(t.Context()); err != nil {
			return err
		}
		if a.evidence = a.world.evidence(t); len(a.evidence.sealed(t, done)) != 2 {
			return fmt.Errorf("only of %v", a.evidence.sealed(t, done))
		}
		return nil
	})
}

// commands runs each of the document, and demands that each line has one, or says that there is none.
func (a *audited) commands(t *testing.T) {
	doc, err := os.ReadFile("../docs/COMPLIANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("`culvert ([^`]*)`")
	for line := range strings.Lines(string(doc)) {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|--") || strings.Contains(line, " shown by |") {
			continue
		}
		if !code.MatchString(line) && !strings.Contains(line, "| no: ") {
			t.Errorf("no command shows this: %s", line)
		}
	}
	seen := map[string]bool{}
	for _, m := range code.FindAllSubmatch(doc, -1) {
		seen[string(m[1])] = true
	}
	for line := range auditorsCommands {
		if !seen[line] {
			t.Errorf("the document has no culvert %s", line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(seen)) {
		want, known := auditorsCommands[line]
		switch {
		case line == "evidence", line == "service reject ledger vpce-1": // the bundle, and what cut the traffic off
		case line == "whois ADDRESS": // TestCommands asks it of addresses that targets see
		case !known:
			t.Errorf("what culvert %s has to show is not known here", line)
		default:
			t.Run(line, func(t *testing.T) { a.answers(t, line, want) })
		}
	}
}

// answers runs one command until it shows what it must: how often logs were read is told after a minute.
func (a *audited) answers(t *testing.T, line string, want shown) {
	t.Helper()
	files := a.deliveries(t, a.logs[0])
	if want.account == "pay" {
		files = a.deliveries(t, a.logs[5])
	}
	args := strings.NewReplacer("/srv/flow-logs", files, "DIR", a.evidence.dir, "FILE", a.evidence.keys).Replace(line)
	eventually(t, 90*time.Second, "culvert "+line, func() error {
		out, errs, status := a.ask(t, want.account, args)
		if (status != 0) != want.fails && !strings.HasPrefix(line, "doctor") { // which speaks of this machine
			return fmt.Errorf("status %d, %s%s", status, out, errs)
		}
		for word := range strings.FieldsSeq(want.words) {
			if !strings.Contains(out+errs, word) {
				return fmt.Errorf("no %s in\n%s%s", word, out, errs)
			}
		}
		return nil
	})
}

// bundled: a bundle has records of both ends, decisions, and rules; it verifies by the key that came apart from it, and can be made again from
// what is in it, byte by byte. One that was changed does not.
func (a *audited) bundled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bundle")
	span := " --from " + a.began.Format(time.RFC3339) + " --to " + time.Now().UTC().Add(time.Second).Format(time.RFC3339)
	if _, errs, status := a.ask(t, "", "evidence --service pay/ledger --keys "+a.evidence.keys+span+" --out "+dir); status != 0 {
		t.Fatal(errs)
	}
	read := func(name string) string { return string(must(os.ReadFile(filepath.Join(dir, name)))(t)) }
	sides := map[string]int{}
	for line := range strings.Lines(read(bundle.RecordsName)) {
		var r api.FlowRecord
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.ServiceName != "pay/ledger" {
			t.Fatalf("%s: %v", line, err)
		}
		sides[r.Side+" "+r.Action]++
	}
	if sides["consumer ACCEPT"] == 0 || sides["provider ACCEPT"] == 0 {
		t.Errorf("records are of %v", sides)
	}
	for name, words := range map[string][]string{
		bundle.ApprovalsName:  {a.endpoint.ID, `"Rejected"`, `"Available"`},
		bundle.PoliciesName:   {`"fromPort": 443`, "create-service"},
		bundle.SummaryName:    {"pay/ledger", "VERIFIED", "FLOW_REVOKED"},
		bundle.TranscriptName: {"VERIFIED"},
	} {
		for _, word := range words {
			if !strings.Contains(read(name), word) {
				t.Errorf("%s has no %s", name, word)
			}
		}
	}
	a.madeAgain(t, dir, span)
	if out, errs, status := a.ask(t, "", "flows verify "+dir+" --keys "+a.evidence.keys); status != 0 {
		t.Errorf("the bundle does not verify: %s%s", out, errs)
	}
	a.tampered(t, evidence{dir, a.evidence.keys})
}

// madeAgain compares a bundle with the one that is made of the copy in it, by somebody without a server.
func (a *audited) madeAgain(t *testing.T, dir, span string) {
	t.Helper()
	again := filepath.Join(t.TempDir(), "again")
	args := strings.Fields("evidence --service pay/ledger --copy " + dir + " --keys " + a.evidence.keys + span + " --out " + again)
	cmd := exec.CommandContext(t.Context(), a.bin, args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(must(os.ReadFile(filepath.Join(dir, bundle.SumsName)))(t))) {
		name := strings.Fields(line)[1]
		have, want := must(os.ReadFile(filepath.Join(again, name)))(t), must(os.ReadFile(filepath.Join(dir, name)))(t)
		if !bytes.Equal(have, want) {
			t.Errorf("%s is another one when it is made again", name)
		}
	}
}

// past: the connection is shown as it was at each time, with who decided, by the server and by the copy alone.
func (a *audited) past(t *testing.T) {
	var id string
	for _, c := range must(a.as("pay").ListConnections(t.Context(), "ledger"))(t) {
		if c.Endpoint == a.endpoint.ID {
			id = c.ID
		}
	}
	for _, from := range []string{"", " --from " + a.evidence.dir + " --keys " + a.evidence.keys} {
		for at, want := range map[time.Time][]string{
			a.began.Add(time.Second):    {"state: Available", "accept-connections", "fromPort: 443"},
			a.rejected.Add(time.Second): {"state: Rejected", "reject-connections"},
			a.joined:                    {"state: Available", "accept-connections"},
		} {
			out, errs, status := a.ask(t, "", "audit show "+id+" --at "+at.UTC().Format(time.RFC3339)+from)
			for _, word := range want {
				if status != 0 || !strings.Contains(out, word) {
					t.Errorf("at %s%s: status %d, no %s in\n%s%s", at.Format(time.TimeOnly), from, status, word, out, errs)
				}
			}
		}
	}
}
