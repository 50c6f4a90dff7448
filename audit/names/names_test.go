package names_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/names"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func question(name string, after time.Duration, ttl uint32, addresses ...string) api.QueryRecord {
	return api.QueryRecord{VPC: "vpc-1", Client: "10.0.1.5", Name: name, Start: noon.Add(after), End: noon.Add(after), TTLSeconds: ttl, Addresses: addresses}
}

func flow(src, dst string, after time.Duration, state string) *api.FlowRecord {
	return &api.FlowRecord{VPC: "vpc-1", Start: noon.Add(after), State: state, Tuple: api.FlowTuple{SrcAddr: src, SrcPort: 40000, DstAddr: dst, DstPort: 443}}
}

// A flow has the name that its client asked for last and got its address for, as long as the answer may be used, however it was spelled.
func TestFlowHasItsName(t *testing.T) {
	six := func(a string) string { return api.IPv6Address(7, 3, netip.MustParseAddr(a)).String() }
	x := names.New([]api.QueryRecord{
		question("later.", 20*time.Second, 60, "10.0.9.9"),
		question("FiRst.", 0, 60, "10.0.9.9", six("10.0.9.9")),
		question("nothing.", 0, 60),
		question("brief.", 0, 0, "10.0.9.8"),
		{VPC: "vpc-2", Client: "10.0.1.5", Name: "other-vpc.", Start: noon, End: noon, TTLSeconds: 60, Addresses: []string{"10.0.9.7"}},
		{VPC: "vpc-1", Lost: 7, Start: noon, End: noon},
	})
	for what, c := range map[string]struct {
		r    *api.FlowRecord
		want string
	}{
		"right after":                  {flow("10.0.1.5", "10.0.9.9", time.Millisecond, api.FlowOpen), "first."},
		"asked again since":            {flow("10.0.1.5", "10.0.9.9", 21*time.Second, api.FlowClosed), "later."},
		"by IPv6":                      {flow(six("10.0.1.5"), six("10.0.9.9"), time.Second, api.FlowOpen), "first."},
		"before the question":          {flow("10.0.1.5", "10.0.9.9", -time.Second, api.FlowOpen), ""},
		"clocks a little apart":        {flow("10.0.1.5", "10.0.9.8", -time.Millisecond, api.FlowOpen), "brief."},
		"no time to live, soon":        {flow("10.0.1.5", "10.0.9.8", time.Second, api.FlowOpen), "brief."},
		"no time to live, later":       {flow("10.0.1.5", "10.0.9.8", 10*time.Second, api.FlowOpen), ""},
		"too late":                     {flow("10.0.1.5", "10.0.9.9", 20*time.Second+66*time.Second, api.FlowOpen), ""},
		"too late, refused":            {flow("10.0.1.5", "10.0.9.9", 20*time.Second+66*time.Second, ""), ""},
		"late, but it was open before": {flow("10.0.1.5", "10.0.9.9", time.Hour, api.FlowActive), "later."},
		"another client":               {flow("10.0.1.6", "10.0.9.9", time.Second, api.FlowOpen), ""},
		"another address":              {flow("10.0.1.5", "10.0.9.10", time.Second, api.FlowOpen), ""},
		"another VPC's question":       {flow("10.0.1.5", "10.0.9.7", time.Second, api.FlowOpen), ""},
		"without addresses":            {flow("", "", time.Second, api.FlowOpen), ""},
	} {
		got, ok := x.Of(c.r)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q, %t; want %q", what, got, ok, c.want)
		}
	}
}
