package flow

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
)

func sample(f Flow) api.FlowRecord {
	r := labeler().Flow(&f)
	r.Node, r.Sequence, r.Start, r.End, r.State = node, 12, epoch, epoch.Add(1500*1e6), api.FlowClosed
	r.Packets, r.Bytes, r.ReplyPackets, r.ReplyBytes, r.TCPFlags = 6, 420, 5, 4100, tcpSYN|tcpACK|tcpFIN|8
	return r
}

func TestLine(t *testing.T) {
	consumer, provider := sample(consumerFlow(1, 1)), sample(providerFlow(1, 1))
	skipped := api.FlowRecord{Start: epoch, End: epoch, LogStatus: StatusSkipped, Lost: 4}
	for _, c := range []struct {
		r    api.FlowRecord
		want string
	}{
		{consumer, "2 111111111111 eni-cart 10.0.1.5 10.0.1.200 40001 443 6 6 420 1767323045 1767323046 ACCEPT OK"},
		{provider, "2 222222222222 eni-ledger 10.0.1.9 10.0.1.6 40001 8443 6 6 420 1767323045 1767323046 ACCEPT OK"},
		{skipped, "2 - - - - - - - - - 1767323045 1767323045 - SKIPDATA"},
	} {
		if got := Line(&c.r); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestFormat(t *testing.T) {
	r := sample(providerFlow(1, 1))
	got, err := Format(&r, []string{
		"tcp-flags", "pkt-srcaddr", "pkt-dstaddr", "flow-direction", "reject-reason", "endpoint-id", "service-name",
		"rule-id", "reply-bytes",
	})
	if want := "19 10.0.1.5 10.0.1.6 ingress - vpce-1 payments/ledger sgr-in 4100"; got != want || err != nil {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
	if _, err := Format(&r, []string{"version", "az-id"}); err == nil || !strings.Contains(err.Error(), "az-id") {
		t.Errorf("unknown field: %v", err)
	}
	all, err := Format(&r, Fields())
	if err != nil || len(strings.Fields(all)) != len(fields) {
		t.Errorf("%d words for %d fields, %v", len(strings.Fields(all)), len(fields), err)
	}
}

// A name cannot make a second field, a second record, or steer the terminal that shows it.
func TestWordsStayWords(t *testing.T) {
	r := sample(consumerFlow(1, 1))
	r.Interface = "eni x\n2 \x1b[31m\u009b"
	if line := Line(&r); strings.ContainsAny(line, "\n\x1b\u009b") || len(strings.Fields(line)) != len(DefaultFormat) {
		t.Errorf("%q", line)
	}
	var b strings.Builder
	err := Table(&b, []api.FlowRecord{r})
	if err != nil || strings.ContainsAny(b.String(), "\x1b\u009b") || strings.Count(b.String(), "\n") != 2 {
		t.Errorf("%q %v", b.String(), err)
	}
}

func TestTable(t *testing.T) {
	refused := labeler().Refusal(&Refusal{
		VPC: 1, ENI: 11, Hook: HookWorkload, Src: ip("10.0.1.5"), Dst: ip("10.0.1.99"), Protocol: 1, Reason: "NO_DESTINATION", Packets: 3, Bytes: 252,
	})
	refused.End, refused.Lost = epoch, 2
	records := []api.FlowRecord{
		sample(consumerFlow(1, 1)), sample(providerFlow(1, 1)), refused, {End: epoch, LogStatus: StatusSkipped, Lost: 9},
	}
	want, err := os.ReadFile("testdata/table.golden")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := Table(&b, records); err != nil || b.String() != string(want) {
		t.Errorf("got\n%s%v\nwant\n%s", b.String(), err, want)
	}
	if err := Table(failingWriter{}, records); err == nil {
		t.Error("a writer's error is not told")
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }
