package controlplane

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
)

func (s *Server) registerHostedZones() {
	writing(s, operation{http.MethodPost, "/v1/hosted-zones", "create-hosted-zone", "Make a private hosted zone", aUser}, createHostedZone)
	listing(s, operation{http.MethodGet, "/v1/hosted-zones", "list-hosted-zones", "Private hosted zones", aUser},
		func(c *call, _ *Watching) (*api.List[api.HostedZone], error) {
			return list(c, c.r.HostedZones, nil), nil
		})
	reading(s, operation{http.MethodGet, "/v1/hosted-zones/{id}", "get-hosted-zone", "One hosted zone with its records", aUser},
		func(c *call, in *ByID) (*api.HostedZone, error) { return c.hostedZone(in.ID) })
	writing(s, operation{http.MethodDelete, "/v1/hosted-zones/{id}", "delete-hosted-zone", "Remove a hosted zone", aUser}, deleteHostedZone)
	writing(s, operation{http.MethodPost, "/v1/hosted-zones/{id}/associate", "associate-hosted-zone", "Let VPCs see its names", aUser},
		associateZone)
	writing(s, operation{http.MethodPost, "/v1/hosted-zones/{id}/disassociate", "disassociate-hosted-zone", "Take that back", aUser},
		disassociateZone)
	writing(s, operation{http.MethodPost, "/v1/hosted-zones/{id}/records", "change-records", "Put and remove record sets: all or none",
		aUser}, changeRecords)
}

func (c *call) hostedZone(ref string) (*api.HostedZone, error) {
	return find(c, c.r.HostedZones, api.KindHostedZone, "id", ref, nil)
}

func createHostedZone(c *call, in *creation[api.CreateHostedZoneRequest]) (*api.HostedZone, error) {
	account, err := c.owner()
	if err != nil {
		return nil, err
	}
	if err := limit(c.r.HostedZones, api.MaxHostedZonesPerAccount, "hosted zones",
		func(z *api.HostedZone) bool { return z.Account == account }); err != nil {
		return nil, err
	}
	z := &api.HostedZone{Meta: c.meta(api.KindHostedZone, account, in.Body.Domain, in.Body.Tags), VPCs: []string{},
		RecordSets: []api.RecordSet{}}
	return z, c.associate(z, in.Body.VPCs)
}

// associate adds VPCs to a zone and writes it.
func (c *call) associate(z *api.HostedZone, refs []string) error {
	if err := z.Validate(); err != nil {
		return err
	}
	vpcs, err := c.associated(z.Account, z.VPCs, refs, func(v *api.VPC) error { return c.domainFree(z, v) })
	if err != nil {
		return err
	}
	z.VPCs = vpcs
	return put(c, z, nil, nil)
}

// domainFree refuses a zone in a VPC where something else answers for the same domain.
func (c *call) domainFree(z *api.HostedZone, v *api.VPC) error {
	for _, id := range slices.Sorted(maps.Keys(c.r.HostedZones)) {
		if o := c.r.HostedZones[id]; o.ID != z.ID && o.Name == z.Name && slices.Contains(o.VPCs, v.ID) {
			return api.Errorf(api.CodeConflictingDomain, "vpcIds", "disassociate that one first, or put the records there",
				"the hosted zone %s answers %s in the VPC %s already", o.ID, z.Name, v.ID)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.r.Endpoints)) {
		e := c.r.Endpoints[id]
		if s := c.r.Services[e.Service]; e.VPC == v.ID && e.PrivateDNSEnabled && s != nil {
			for _, name := range s.PrivateNames() {
				if strings.TrimPrefix(name, "*.") == z.Name {
					return api.Errorf(api.CodeConflictingDomain, "vpcIds",
						"turn its private DNS off, or make hosted zones for names below or above",
						"the endpoint %s (%s) of %s answers %s in the VPC %s already", e.ID, e.Name, e.ServiceName, name, v.ID)
				}
			}
		}
	}
	return nil
}

// zoneInTheWay is a hosted zone that answers a private name in a VPC, nil if there is none.
func (c *call) zoneInTheWay(vpc, name string) *api.HostedZone {
	for _, z := range c.r.HostedZones {
		if z.Name == strings.TrimPrefix(name, "*.") && slices.Contains(z.VPCs, vpc) {
			return z
		}
	}
	return nil
}

// changedZone is a copy of the zone that a request names.
func (c *call) changedZone(ref string) (*api.HostedZone, error) {
	old, err := c.hostedZone(ref)
	if err != nil {
		return nil, err
	}
	z := *old
	c.subject = z.ID
	return &z, nil
}

func associateZone(c *call, in *change[api.VPCsRequest]) (*api.HostedZone, error) {
	z, err := c.changedZone(in.ID)
	if err != nil {
		return nil, err
	}
	if err := atMost("vpcIds", len(in.Body.VPCs)); err != nil {
		return nil, err
	}
	return z, c.associate(z, in.Body.VPCs)
}

func disassociateZone(c *call, in *change[api.VPCsRequest]) (*api.HostedZone, error) {
	z, err := c.changedZone(in.ID)
	if err != nil {
		return nil, err
	}
	if z.VPCs, err = c.disassociated(z, z.VPCs, in.Body.VPCs); err != nil {
		return nil, err
	}
	return z, put(c, z, nil, nil)
}

func deleteHostedZone(c *call, in *Removal) (*api.Result, error) {
	z, err := c.hostedZone(in.ID)
	if err != nil {
		return nil, err
	}
	c.subject = z.ID
	c.tx.Remove(z)
	return &api.Result{}, nil
}

// recordName is a name as a request gives it: "@" is the domain.
func recordName(name, domain string) string {
	if name == "@" {
		return domain
	}
	return name
}

// changeRecords removes record sets, and then puts others in the place of those of the same names and types.
func changeRecords(c *call, in *change[api.ChangeRecordsRequest]) (*api.HostedZone, error) {
	z, err := c.changedZone(in.ID)
	if err != nil {
		return nil, err
	}
	if n := len(in.Body.Put) + len(in.Body.Remove); n == 0 || n > api.MaxItemsPerRequest {
		return nil, atMost("put", n)
	}
	z.RecordSets = slices.Clone(z.RecordSets)
	for _, r := range in.Body.Remove {
		r.Name = recordName(r.Name, z.Name)
		if !slices.ContainsFunc(z.RecordSets, r.Names) {
			return nil, api.Errorf(api.CodeRecordNotFound, "remove", "look at GET /v1/hosted-zones/{id}",
				"the hosted zone %s has no record set %s %s", z.ID, api.Shortened(r.Name), api.Shortened(r.Type))
		}
		z.RecordSets = slices.DeleteFunc(z.RecordSets, r.Names)
	}
	given := map[api.RecordName]bool{}
	for _, r := range in.Body.Put {
		set := api.RecordSet{Name: recordName(r.Name, z.Name), Type: r.Type, TTLSeconds: api.DefaultRecordTTL, Values: r.Values}
		if r.TTLSeconds != nil {
			set.TTLSeconds = *r.TTLSeconds
		}
		key := api.RecordName{Name: set.Name, Type: set.Type}
		if given[key] {
			return nil, api.Errorf(api.CodeInvalidParameter, "put", "give all values in one set", "%s %s is given twice",
				api.Shortened(set.Name), api.Shortened(set.Type))
		}
		given[key] = true
		z.RecordSets = append(slices.DeleteFunc(z.RecordSets, key.Names), set)
	}
	slices.SortFunc(z.RecordSets, func(a, b api.RecordSet) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type)) })
	if err := put(c, z, nil, nil); err != nil {
		return nil, err
	}
	return z, c.roomForRecords(z)
}

// roomForRecords bounds what an account's zones take together.
func (c *call) roomForRecords(z *api.HostedZone) error {
	sum := z.Size()
	for _, o := range c.r.HostedZones {
		if o.Account == z.Account && o.ID != z.ID {
			sum += o.Size()
		}
	}
	if sum > api.MaxHostedZoneBytesPerAccount {
		return api.Errorf(api.CodeLimitExceeded, "recordSets", "remove some", "the account's records take %d KiB, at most %d are allowed",
			sum>>10, api.MaxHostedZoneBytesPerAccount>>10)
	}
	return nil
}
