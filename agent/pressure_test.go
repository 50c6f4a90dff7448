package agent

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/plan"
)

// What is used to 80 % of its bound is said where people look, by the names that they know.
func TestPressureIsSaid(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	p := b.agent.lastPlan()
	i := slices.IndexFunc(p.Quotas, func(q plan.Quota) bool { return q.Kind == plan.QuotaAccount })
	if i < 0 {
		t.Fatal("no account has a share")
	}
	b.pressure = []Charge{
		{Quota: plan.QuotaAccount, ID: p.Quotas[i].ID, Used: 850, Bound: 1000},
		{Source: netip.MustParseAddr("10.0.1.9"), Target: netip.MustParseAddrPort("10.0.1.5:8443"), Used: 35_000, Bound: 38_502},
	}
	_, errs := b.round()
	var texts []string
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	for _, want := range []string{
		"account " + p.Quotas[i].Name + " uses 425 of 500 flows (85 %)", "35000 of 38502 (90 %) from 10.0.1.9 to 10.0.1.5:8443",
	} {
		if !slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("nobody says %q: %q", want, texts)
		}
	}
	if s, err := b.agent.Status(t.Context()); err != nil || len(s.Errors) < 2 {
		t.Errorf("status says %q, %v", s.Errors, err)
	}
	b.pressure = nil
	b.mustRound()
}

// Who was refused something at a cap or share of late is named, with endpoint, account and reason; afterwards no more.
func TestRefusalsAtLimitsAreSaid(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	now := time.Now()
	b.limited = []flow.Limited{
		{Side: flow.SideProvider, Account: "2", Endpoint: "vpce-1", ServiceName: "pay/ledger", Reason: "CAP_CONNECTIONS", Packets: 7, Last: now},
		{Account: "3", Reason: "ACCOUNT_FLOWS_FULL", Packets: 9, Last: now.Add(-limitTold / 2)},
		{Account: "4", Reason: "ACCOUNT_FLOWS_FULL", Packets: 9, Last: now.Add(-2 * limitTold)},
	}
	b.round()
	s, err := b.agent.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(s.Errors, "\n")
	for _, want := range []string{
		"endpoint vpce-1 to pay/ledger, account 2 are refused with CAP_CONNECTIONS", "account 3 are refused with ACCOUNT_FLOWS_FULL",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("nobody says %q: %q", want, said)
		}
	}
	if strings.Contains(said, "account 4") {
		t.Errorf("it is long ago: %q", said)
	}
	b.limited = nil
	b.mustRound()
}

// A log that takes no records is said as long as it does.
func TestRecordsThatAreNotWrittenAreSaid(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	b.unwritten = errors.New("flow records are not written: the disk is full")
	b.round()
	if s, err := b.agent.Status(t.Context()); err != nil || !slices.Contains(s.Errors, b.unwritten.Error()) {
		t.Errorf("status says %q, %v", s.Errors, err)
	}
	b.unwritten = nil
	b.mustRound()
}
