package cli

import (
	"context"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

// groupFlags are the attributes of a target group.
type groupFlags struct {
	stickiness  string
	delay       time.Duration
	termination bool
	health      *healthFlags
}

func groupAttributes(c *cobra.Command) *groupFlags {
	g := new(groupFlags)
	f := c.Flags()
	f.StringVar(&g.stickiness, "stickiness", "", "source_ip: a client's flows all go to one `target`")
	f.DurationVar(&g.delay, "deregistration-delay", api.DefaultDeregistrationDelay*time.Second,
		"how long a deregistered target keeps its flows: 0s to 1h")
	f.BoolVar(&g.termination, "connection-termination", false, "end what flows are left when the delay is over")
	g.health = healthAttributes(c)
	return g
}

// seconds are the delay's, nil if it was not given.
func (g *groupFlags) seconds(c *cobra.Command) (*uint32, error) {
	if !c.Flags().Changed("deregistration-delay") {
		return nil, nil
	}
	n := g.delay / time.Second
	if g.delay%time.Second != 0 || n < 0 || n > math.MaxUint32 {
		return nil, api.Errorf(api.CodeInvalidParameter, "--deregistration-delay", "give whole seconds, 0s to 1h",
			"%s is out of range", g.delay)
	}
	s := uint32(n)
	return &s, nil
}

func (a *app) targetGroupModify() *cobra.Command {
	var attributes *groupFlags
	var m mutation
	c := command("modify GROUP [--stickiness source_ip|\"\"] [--deregistration-delay DURATION]", "Change a target group", `
Change how new flows are spread over a target group, what becomes of those of targets that are deregistered, and how
targets are asked whether they work.`, `
  culvert target-group modify ledger --stickiness source_ip
  culvert target-group modify ledger --deregistration-delay 60s --connection-termination
  culvert target-group modify ledger --health-protocol HTTP --health-path /healthz --health-interval 5s`, nil)
	c.RunE = change(a, targetGroupKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.TargetGroup, error) {
			var r api.ModifyTargetGroupRequest
			var err error
			if r.DeregistrationDelaySeconds, err = attributes.seconds(c); err != nil {
				return nil, err
			}
			if c.Flags().Changed("stickiness") {
				r.Stickiness = &attributes.stickiness
			}
			if c.Flags().Changed("connection-termination") {
				r.ConnectionTermination = &attributes.termination
			}
			if r.GroupHealthRequest, err = attributes.health.request(c); err != nil {
				return nil, err
			}
			return cl.ModifyTargetGroup(ctx, args[0], r, o...)
		})
	attributes = groupAttributes(c)
	c.Args = exactly("GROUP")
	c.ValidArgsFunction = complete(a, targetGroupKind)
	m.flags(c)
	targetGroupKind.narrow(a, c, &m.vpc)
	return c
}

const crossZoneName = "cross-zone"

func crossZoneFlag(c *cobra.Command) {
	c.Flags().Bool(crossZoneName, true, "use targets of every zone, not only those of the zone whose address was dialled")
}

// crossZone is nil if it was not given.
func crossZone(c *cobra.Command) *bool {
	if !c.Flags().Changed(crossZoneName) {
		return nil
	}
	on, err := c.Flags().GetBool(crossZoneName)
	if err != nil {
		return nil
	}
	return &on
}

func (a *app) loadBalancerModify() *cobra.Command {
	var m mutation
	c := command("modify BALANCER --cross-zone=true|false", "Change a load balancer", `
Change which targets new flows go to: of every zone, or while there is one only of the zone whose address was dialled.`, `
  culvert load-balancer modify ledger --cross-zone=false`, nil)
	c.RunE = change(a, loadBalancerKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.LoadBalancer, error) {
			return cl.ModifyLoadBalancer(ctx, args[0], api.ModifyLoadBalancerRequest{CrossZone: crossZone(c)}, o...)
		})
	crossZoneFlag(c)
	c.Args = exactly("BALANCER")
	c.ValidArgsFunction = complete(a, loadBalancerKind)
	m.flags(c)
	loadBalancerKind.narrow(a, c, &m.vpc)
	return c
}
