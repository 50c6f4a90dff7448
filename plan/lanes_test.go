package plan

import (
	"fmt"
	"testing"

	"github.com/culvert-net/culvert/api"
)

// lanesOf are the lanes of so many accounts with an interface each.
func lanesOf(accounts int) map[string]uint8 {
	c := &compiler{plan: &Plan{}, vpcs: map[uint32]*api.ViewVPC{}}
	for i := range uint32(accounts) {
		c.vpcs[i+1] = &api.ViewVPC{Account: fmt.Sprintf("account-%03d", i)}
		c.plan.ENIs = append(c.plan.ENIs, ENI{VPC: i + 1}, ENI{VPC: i + 1})
	}
	c.lanes()
	lanes := map[string]uint8{}
	for _, e := range c.plan.ENIs {
		name := c.account(e.VPC)
		if lane, ok := lanes[name]; ok && lane != e.Lane {
			lanes[name] = 0
			continue
		}
		lanes[name] = e.Lane
	}
	return lanes
}

// Each account has a lane of its own, one for all its interfaces, as long as there are as many; then all are used.
func TestLanes(t *testing.T) {
	before := map[string]uint8{}
	moved := 0
	for n := 1; n <= 3*Lanes; n++ {
		lanes, used := lanesOf(n), map[uint8]int{}
		for name, lane := range lanes {
			if lane == 0 || lane >= Lanes {
				t.Fatalf("%d accounts: %s has lane %d", n, name, lane)
			}
			used[lane]++
			if old := before[name]; old != 0 && old != lane {
				moved++
			}
		}
		if len(used) != min(n, Lanes-1) {
			t.Fatalf("%d accounts use %d lanes", n, len(used))
		}
		before = lanes
	}
	if moved > 0 { // here each comes behind those that are there
		t.Errorf("%d times an account moved because another came", moved)
	}
}
