package cli

import (
	"strings"
	"testing"
)

// TestApprovalsOfWhatIsGone: each decision is told with its event, also of a connection that is there no more, to the account whose service
// it was and to nobody else.
func TestApprovalsOfWhatIsGone(t *testing.T) {
	newSession(t)
	for _, line := range []string{"account create pay", "account create shop",
		"vpc create main --account pay --cidr 10.0.0.0/16", "subnet create main --vpc main --account pay --cidr 10.0.1.0/24 --zone a",
		"load-balancer create ledger --subnet main --account pay",
		"service create ledger --load-balancer ledger --acceptance-required --account pay", "service allow ledger shop --account pay",
		"vpc create main --account shop --cidr 10.0.0.0/16", "subnet create main --vpc main --account shop --cidr 10.0.1.0/24 --zone a",
		"endpoint create ledger --vpc main --service pay/ledger --account shop", "service accept ledger ledger --account pay",
		"service reject ledger ledger --account pay", "endpoint delete ledger --account shop"} {
		if status, _, errOut := once(t, strings.Fields(line)...); status != 0 {
			t.Fatalf("%s: %s", line, errOut)
		}
	}
	report := func(more ...string) []string {
		t.Helper()
		status, out, errOut := once(t, append([]string{"report", "approvals", "-o", "csv"}, more...)...)
		if status != 0 {
			t.Fatalf("%v: status %d, %s", more, status, errOut)
		}
		return strings.Split(strings.TrimSpace(out), "\n")[1:]
	}
	for _, account := range [][]string{{"--account", "pay"}, nil} {
		have := report(account...)
		if len(have) != 2 || !strings.Contains(have[0], "Available") || !strings.Contains(have[1], "Rejected") {
			t.Fatalf("%v: %q", account, have)
		}
		for _, row := range have {
			if cells := strings.Split(row, ","); cells[1] == "" || cells[len(cells)-1] == "" {
				t.Errorf("without who, or without its event: %q", row)
			}
		}
	}
	if have := report("--account", "pay", "--until", "1h"); len(have) != 0 {
		t.Errorf("an hour ago: %q", have)
	}
	if have := report("--account", "shop"); len(have) != 0 {
		t.Errorf("another's: %q", have)
	}
}
