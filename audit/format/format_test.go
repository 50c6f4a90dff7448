package format

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// consumer and provider are what the two nodes of one flow write: a cart asks a ledger through an endpoint.
func consumer() api.FlowRecord {
	return api.FlowRecord{Node: "node-a", Boot: "b", Sequence: 12, Account: "111111111111", Interface: "eni-cart", VPC: "vpc-shop",
		Subnet: "subnet-shop", Start: epoch, End: epoch.Add(1500 * time.Millisecond), Action: api.ActionAccept, LogStatus: StatusOK,
		State: api.FlowClosed, Reason: "FORWARDED", Rule: "sgr-out", Stage: "workload", Side: "consumer", Protocol: 6,
		Tuple:      api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 40001, DstAddr: "10.0.1.200", DstPort: 443},
		Translated: api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 40001, DstAddr: "10.0.1.6", DstPort: 8443},
		Direction:  "egress", Packets: 6, Bytes: 420, ReplyPackets: 5, ReplyBytes: 4100, TCPFlags: 0x1b, ReplyTCPFlags: 0x1a,
		FlowID: "1", Endpoint: "vpce-1", Connection: "vpce-con-1", Service: "vpce-svc-1", ServiceName: "pay/ledger", Approver: "key-9"}
}

func provider() api.FlowRecord {
	r := consumer()
	r.Node, r.Account, r.Interface, r.VPC, r.Subnet, r.Stage, r.Side = "node-b", "222222222222", "eni-ledger", "vpc-pay", "subnet-pay", "tunnel", "provider"
	r.Direction, r.Tuple, r.Rule = "ingress", r.Translated, "sgr-in"
	r.Translated = api.FlowTuple{SrcAddr: "10.0.1.9", SrcPort: 1025, DstAddr: "10.0.1.6", DstPort: 8443}
	return r
}

func lines(t *testing.T, format string, r api.FlowRecord) []string {
	t.Helper()
	fields, err := Parse(format)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, row := range Rows(&r, 1) {
		line := string(AppendText(nil, fields, &row))
		if strings.Count(line, "\n") != 1 || len(strings.Fields(line)) != len(fields) {
			t.Errorf("%q is not one line of %d words", line, len(fields))
		}
		out = append(out, strings.TrimSuffix(line, "\n"))
	}
	return out
}

// Both directions are lines of their own, as AWS has them: with the addresses that the interface sees.
func TestDefaultFormatIsAWS(t *testing.T) {
	refused := consumer()
	refused.Action, refused.Translated, refused.ReplyPackets, refused.Lost = api.ActionReject, refused.Tuple, 0, 3
	for _, c := range []struct {
		r    api.FlowRecord
		want []string
	}{
		{consumer(), []string{
			"2 111111111111 eni-cart 10.0.1.5 10.0.1.200 40001 443 6 6 420 1767323045 1767323046 ACCEPT OK",
			"2 111111111111 eni-cart 10.0.1.200 10.0.1.5 443 40001 6 5 4100 1767323045 1767323046 ACCEPT OK"}},
		{provider(), []string{
			"2 222222222222 eni-ledger 10.0.1.9 10.0.1.6 1025 8443 6 6 420 1767323045 1767323046 ACCEPT OK",
			"2 222222222222 eni-ledger 10.0.1.6 10.0.1.9 8443 1025 6 5 4100 1767323045 1767323046 ACCEPT OK"}},
		{refused, []string{
			"2 111111111111 eni-cart 10.0.1.5 10.0.1.200 40001 443 6 6 420 1767323045 1767323046 REJECT OK",
			"2 111111111111 - - - - - - - - 1767323045 1767323046 - SKIPDATA"}},
		{api.FlowRecord{Start: epoch, End: epoch, LogStatus: StatusSkipData, Lost: 4}, []string{
			"2 - - - - - - - - - 1767323045 1767323045 - SKIPDATA"}},
	} {
		if got := lines(t, Default, c.r); !slices.Equal(got, c.want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
	fields, err := Parse(Default)
	if err != nil {
		t.Fatal(err)
	}
	row := NoData("111111111111", "eni-cart", "vpc-shop", "subnet-shop", epoch, epoch.Add(time.Minute))
	if got := string(AppendText(nil, fields, &row)); got != "2 111111111111 eni-cart - - - - - - - 1767323045 1767323105 - NODATA\n" {
		t.Errorf("got %q", got)
	}
	if h := Header(fields); h != "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status" {
		t.Errorf("header %q", h)
	}
}

func TestOtherFields(t *testing.T) {
	const format = "${version} ${tcp-flags} ${type} ${pkt-srcaddr} ${pkt-dstaddr} ${flow-direction} ${traffic-path} ${encryption-status} " +
		"${next-hop-interface-type} ${reject-reason} ${ecs-task-id} ${nat-srcport} ${backend-addr} ${backend-port} ${reply} ${records} ${lost}"
	want := []string{
		"11 3 IPv4 10.0.1.5 10.0.1.6 egress 1 - vpc_endpoint - - 40001 10.0.1.6 8443 0 1 0",
		"11 19 IPv4 10.0.1.6 10.0.1.5 ingress - - vpc_endpoint - - 8443 10.0.1.6 8443 1 1 0",
	}
	r := consumer()
	r.TCPFlags, r.ReplyTCPFlags = 0x1b, 0x1b // SYN, FIN, PSH and ACK
	if got := lines(t, format, r); !slices.Equal(got, want) {
		t.Errorf("consumer: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	want = []string{
		"10 10.0.1.5 10.0.1.6 ingress - 1 40001 0", "10 10.0.1.6 10.0.1.5 egress 1 1 8443 1",
	}
	const few = "${version} ${pkt-srcaddr} ${pkt-dstaddr} ${flow-direction} ${traffic-path} ${encryption-status} ${nat-srcport} ${reply}"
	if got := lines(t, few, provider()); !slices.Equal(got, want) {
		t.Errorf("provider: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// What an account may not see of the other side is missing, and is no zero.
	r.Translated = api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 40001}
	if got := lines(t, "${pkt-dstaddr} ${nat-dstport} ${backend-port} ${nat-srcport}", r); got[0] != "- - - 40001" {
		t.Errorf("redacted: %q", got[0])
	}
	ping := consumer()
	ping.Protocol = 1
	ping.Tuple.SrcPort, ping.Tuple.DstPort = 4711, 0
	if got := lines(t, "${protocol} ${srcport} ${dstport} ${nat-srcport}", ping); got[0] != "1 0 0 0" || got[1] != "1 0 0 0" {
		t.Errorf("the identifier of an echo passes for a port: %q", got)
	}
	six := r
	six.Tuple = api.FlowTuple{SrcAddr: "fd00::1", DstAddr: "fd00::2"}
	if got := lines(t, "${type}", six); got[0] != "IPv6" {
		t.Errorf("%q", got[0])
	}
}

// Who opened a connection shows SYN, who answered SYN-ACK, and lines of a connection that goes on neither, also those of agents that told the flags of all
// packets so far. A SYN-ACK that came later than the first line is in one that goes on.
func TestFlagsTellWhoOpened(t *testing.T) {
	for state, want := range map[string][]string{
		api.FlowOpen: {"2", "18"}, api.FlowClosed: {"2", "18"}, api.FlowActive: {"0", "0"}, api.FlowLate: {"0", "0"},
	} {
		r := consumer()
		r.State, r.TCPFlags, r.ReplyTCPFlags = state, 0x1a, 0x1a
		if got := lines(t, "${tcp-flags}", r); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", state, got, want)
		}
	}
	r := consumer()
	r.State, r.TCPFlags, r.ReplyTCPFlags = api.FlowActive, 0x1b, 0x1e
	if got := lines(t, "${tcp-flags}", r); !slices.Equal(got, []string{"1", "4"}) {
		t.Errorf("FIN and RST of a connection that goes on: %q", got)
	}
	r.TCPFlags, r.ReplyTCPFlags = 0x10, 0x12
	if got := lines(t, "${tcp-flags}", r); !slices.Equal(got, []string{"0", "18"}) {
		t.Errorf("a SYN-ACK of a connection that was told before: %q", got)
	}
	r.State, r.TCPFlags, r.ReplyTCPFlags = api.FlowClosed, 0x01, 0x01
	if got := lines(t, "${tcp-flags}", r); !slices.Equal(got, []string{"1", "1"}) {
		t.Errorf("the last line of a connection that was told before: %q", got)
	}
}

// Every field is a word in every kind of line, and the same in JSON, where numbers are numbers.
func TestEveryFieldInEveryForm(t *testing.T) {
	fields, err := Parse(All)
	if err != nil || len(fields) != len(Fields()) {
		t.Fatalf("%d fields of %d, %v", len(fields), len(Fields()), err)
	}
	r := consumer()
	r.Lost = 2
	rows := append(Rows(&r, 3), NoData("1", "eni-1", "vpc-1", "subnet-1", epoch, epoch))
	if len(rows) != 4 {
		t.Fatalf("%d rows", len(rows))
	}
	for i := range rows {
		rows[i].Region, rows[i].AZ, rows[i].InstanceID = "local", "a", "node-a"
		text := strings.Fields(string(AppendText(nil, fields, &rows[i])))
		line, err := AppendJSON(nil, fields, &rows[i])
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		d := json.NewDecoder(strings.NewReader(string(line)))
		d.UseNumber()
		if err := d.Decode(&got); err != nil || len(got) != len(fields) || len(text) != len(fields) {
			t.Fatalf("%d words, %d keys of %d fields: %v", len(text), len(got), len(fields), err)
		}
		for j, f := range fields {
			v, there := got[f.Column()]
			word := Missing
			switch x := v.(type) {
			case string:
				word = x
			case json.Number:
				word = x.String()
				if f.Type == String {
					t.Errorf("%s is a number", f.Name)
				}
			}
			if !there || word != text[j] || strings.Contains(f.Column(), "-") || f.Doc == "" {
				t.Errorf("%s: JSON %v, text %q, %q", f.Name, v, text[j], f.Doc)
			}
			if g, ok := Lookup(f.Column()); !ok || g.Name != f.Name {
				t.Errorf("%s is not found by its column", f.Name)
			}
		}
	}
}

// A name cannot make a second field, a second line, or steer the terminal that shows it.
func TestWordsStayWords(t *testing.T) {
	r := consumer()
	r.Interface = "eni x\n2 \x1b[31m\u009b\u2028"
	for _, line := range lines(t, Default, r) { // counts words
		if strings.ContainsAny(line, "\x1b\u009b\u2028") {
			t.Errorf("%q", line)
		}
	}
}

func TestFormatsThatAreRefused(t *testing.T) {
	for format, want := range map[string]string{
		"": "is empty", "   ": "is empty", "srcaddr dstaddr": "no field", "${srcaddr}${dstaddr}": "no field", "${srcaddr} ${src}": `no field "src"`,
		"${srcaddr} ${bytes} ${srcaddr}": "twice", "${srcaddr": "no field", "$srcaddr": "no field", strings.Repeat("${srcaddr} ", 500): "at most 4096",
	} {
		fields, err := Parse(format)
		var e *api.Error
		if !errors.As(err, &e) || e.Field != "logFormat" || e.Remedy == "" || !strings.Contains(e.Message, want) || fields != nil {
			t.Errorf("%.40q: %v", format, err)
		}
	}
	if len(All) > MaxLength/2 {
		t.Errorf("the format of all fields has %d bytes", len(All))
	}
	if got, err := Parse("  ${dstaddr}\t${srcaddr} "); err != nil || Header(got) != "dstaddr srcaddr" {
		t.Errorf("%q, %v", Header(got), err)
	}
}
