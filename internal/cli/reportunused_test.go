package cli

import (
	"slices"
	"strings"
	"testing"
)

// TestUnusedRulesOfWhatIsGone: the report names rules, grants and connections that are no more, with when they were made and removed.
func TestUnusedRulesOfWhatIsGone(t *testing.T) {
	newSession(t)
	run := func(line string) string {
		t.Helper()
		status, out, errOut := once(t, strings.Fields(line)...)
		if status != 0 {
			t.Fatalf("%s: status %d, %s", line, status, errOut)
		}
		return strings.TrimSpace(out)
	}
	for _, line := range []string{"account create pay", "account create shop",
		"vpc create main --account pay --cidr 10.0.0.0/16", "subnet create main --vpc main --account pay --cidr 10.0.1.0/24 --zone a",
		"load-balancer create ledger --subnet main --account pay", "sg create web --vpc main --account pay",
		"service create ledger --load-balancer ledger --acceptance-required --account pay", "service allow ledger shop --account pay",
		"vpc create main --account shop --cidr 10.0.0.0/16", "subnet create main --vpc main --account shop --cidr 10.0.1.0/24 --zone a",
		"endpoint create ledger --vpc main --service pay/ledger --account shop", "service accept ledger ledger --account pay",
		"sg authorize web --ingress --port 443 --cidr 10.0.0.0/16 --account pay",
		"sg authorize web --ingress --port 8443 --cidr 10.0.0.0/16 --account pay"} {
		run(line)
	}
	rows := func() (out [][]string) {
		for line := range strings.Lines(run("report unused-rules -o csv --account pay")) {
			out = append(out, strings.Split(strings.TrimSpace(line), ","))
		}
		return out[1:]
	}
	row := func(kind, what string) []string {
		t.Helper()
		all := rows()
		i := slices.IndexFunc(all, func(r []string) bool { return r[0] == kind && strings.Contains(r[3], what) })
		if i < 0 {
			t.Fatalf("no %s %q in %q", kind, what, all)
		}
		return all[i]
	}
	rule, kept := row("rule", "tcp 443"), row("rule", "tcp 8443")
	if rule[2] != "web" || rule[4] == "" || rule[5] != "" {
		t.Errorf("a rule that is there: %q", rule)
	}
	run("sg revoke web " + rule[1] + " --account pay")
	run("service reject ledger ledger --account pay")
	run("service disallow ledger shop --account pay")
	for _, gone := range [][]string{row("rule", "tcp 443"), row("grant", "allows"), row("connection", "of account")} {
		if gone[4] == "" || gone[5] == "" {
			t.Errorf("when it was made and removed is not told: %q", gone)
		}
	}
	if have := row("rule", "tcp 8443"); !slices.Equal(have, kept) {
		t.Errorf("the other rule: %q, was %q", have, kept)
	}
	if have := run("report unused-rules --all -o csv --account shop"); strings.Contains(have, rule[1]) || !strings.Contains(have, "packets") {
		t.Errorf("another account's: %q", have)
	}
}
