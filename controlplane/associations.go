package controlplane

import (
	"slices"

	"github.com/culvert-net/culvert/api"
)

// forgetVPC takes a VPC that is deleted out of all that is associated with it.
func (c *call) forgetVPC(vpc string) error {
	if err := forgetIn(c, c.r.HostedZones, vpc, func(z *api.HostedZone) *[]string { return &z.VPCs }); err != nil {
		return err
	}
	if err := forgetIn(c, c.r.ResolverRules, vpc, func(r *api.ResolverRule) *[]string { return &r.VPCs }); err != nil {
		return err
	}
	if err := forgetIn(c, c.r.QueryLogs, vpc, func(q *api.QueryLog) *[]string { return &q.VPCs }); err != nil {
		return err
	}
	return c.forgetInFirewalls(vpc)
}

func forgetIn[T any, P interface {
	*T
	api.Resource
	Validate() error
}](c *call, all map[string]P, vpc string, vpcs func(P) *[]string) error {
	for _, old := range all {
		if !slices.Contains(*vpcs(old), vpc) {
			continue
		}
		changed := P(new(T))
		*changed = *old
		*vpcs(changed) = without(*vpcs(old), vpc)
		if err := put(c, changed, nil, nil); err != nil {
			return err
		}
	}
	return nil
}
