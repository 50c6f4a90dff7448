package view

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// Who has much, and is older, takes no room from who has little.
func TestFirewallsHaveEvenShares(t *testing.T) {
	const full = 5 * api.MaxFirewallRuleGroupBytes // of a VPC with all groups that it may have
	var walls []api.ViewFirewall
	size, wanted := map[string]int{}, map[string]int{}
	add := func(account string, bytes int) {
		w := api.ViewFirewall{ID: fmt.Sprintf("frg-%d", len(walls)), Account: account}
		walls = append(walls, w)
		size[w.ID] = bytes
		wanted[account] += bytes
	}
	for i := range 6 {
		add(fmt.Sprintf("large-%d", i), full)
	}
	for i := range 10 {
		add(fmt.Sprintf("small-%d", i), 40<<10)
	}
	add("small-0", full)
	fits, bytes := fitting(walls, size, wanted), 0
	for id := range fits {
		bytes += size[id]
	}
	for _, w := range walls {
		if size[w.ID] < full && !fits[w.ID] {
			t.Errorf("%s of %s has no room", w.ID, w.Account)
		}
	}
	if want := api.MaxFirewallBytesPerNode - full; bytes > api.MaxFirewallBytesPerNode || bytes <= want {
		t.Errorf("%d bytes are taken, want more than %d and at most %d", bytes, want, api.MaxFirewallBytesPerNode)
	}
	if !fits["frg-0"] || fits["frg-16"] {
		t.Errorf("the oldest comes first: %v", fits)
	}
}

// Where not all fit, what has the oldest group comes first, wherever that group stands in its VPC and whatever its id.
func TestOldestGroupOrdersFirewalls(t *testing.T) {
	r, local := api.NewResources(), map[string]bool{}
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	full := make([]string, 0, 1000)
	for i := range cap(full) {
		full = append(full, fmt.Sprintf("n%d.%s", i, strings.Repeat("a", 240)))
	}
	// Each VPC is of another account and has as many rules as it may: of four there is room for three.
	for i, oldest := range []int{40, 10, 30, 20} { // days of each VPC's oldest group; it is the last one of the VPC
		vpc := &api.VPC{Meta: api.Meta{ID: fmt.Sprint("vpc-", i), Account: fmt.Sprint("account-", i)}, Number: uint32(i + 1)}
		r.Put(vpc)
		local[vpc.ID] = true
		for j := range api.MaxFirewallRuleGroupsPerVPC {
			day := 100 + 10*i + j
			if j == api.MaxFirewallRuleGroupsPerVPC-1 {
				day = oldest
			}
			r.Put(&api.FirewallRuleGroup{Meta: api.Meta{ID: fmt.Sprintf("%s%d%d", api.KindFirewallRuleGroup.Prefix(), i, j), Account: vpc.Account,
				CreatedAt: began.AddDate(0, 0, day)}, VPCs: []string{vpc.ID}, Priorities: map[string]uint32{vpc.ID: uint32(j + 1)},
				Rules: []api.FirewallRule{{Priority: 1, Action: api.FirewallAlert, Domains: full}}})
		}
	}
	var v api.View
	(&Index{r: r}).addFirewalls(&v, local)
	if len(v.Firewalls) != 4 {
		t.Fatalf("%d firewalls", len(v.Firewalls))
	}
	for _, w := range v.Firewalls {
		if left, want := w.LeftOut != "", w.VPCs[0] == 1; left != want {
			t.Errorf("the firewall of VPC %d is left out: %q", w.VPCs[0], w.LeftOut)
		}
	}
}
