package controlplane

import (
	"slices"

	"github.com/culvert-net/culvert/api"
)

// vpcs resolves VPCs of an account.
func (c *call) vpcs(account string, refs []string) ([]*api.VPC, error) {
	var out []*api.VPC
	for _, ref := range refs {
		v, err := find(c, c.r.VPCs, api.KindVPC, "vpcIds", ref, func(v *api.VPC) bool { return v.Account == account })
		if err != nil {
			return nil, err
		}
		if v.Account != account {
			return nil, api.NotFound(api.KindVPC, "vpcIds", ref)
		}
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out, nil
}

// associated are the ids of VPCs that something of an account is for, with more of them; free refuses one that cannot have it.
func (c *call) associated(account string, have, refs []string, free func(*api.VPC) error) ([]string, error) {
	vpcs, err := c.vpcs(account, refs)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(have)
	for _, v := range vpcs {
		if slices.Contains(out, v.ID) {
			continue
		}
		if err := free(v); err != nil {
			return nil, err
		}
		out = append(out, v.ID)
	}
	slices.Sort(out)
	return out, nil
}

// disassociated are the ids of VPCs that res is for, without some of them.
func (c *call) disassociated(res api.Resource, have, refs []string) ([]string, error) {
	if err := atMost("vpcIds", len(refs)); err != nil {
		return nil, err
	}
	vpcs, err := c.vpcs(res.GetMeta().Account, refs)
	if err != nil {
		return nil, err
	}
	for _, v := range vpcs {
		if !slices.Contains(have, v.ID) {
			return nil, api.Errorf(api.CodeVPCNotFound, "vpcIds", "look at GET /v1/"+string(res.Kind())+"/{id}",
				"the %s %s is not associated with the VPC %s", res.Kind().Noun(), res.GetMeta().ID, v.ID)
		}
		have = without(have, v.ID)
	}
	return have, nil
}

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
