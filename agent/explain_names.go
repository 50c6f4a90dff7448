package agent

import (
	"net/netip"
	"strings"

	"github.com/culvert-net/culvert/dns/zone"
	"github.com/culvert-net/culvert/plan"
)

// maxExplainedAliases is how many aliases the resolver follows.
const maxExplainedAliases = 16

// resolve finds the address that a name has for the source, in a family that it has, as the node's resolver does: by the query
// firewall, private names and hosted zones. What forwarders would say is not asked.
func (x *explainer) resolve(src plan.ENI, to string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(to); err == nil {
		return a.Unmap(), true
	}
	name, judged := strings.ToLower(strings.TrimSuffix(to, ".")), true
	for range maxExplainedAliases + 1 {
		if judged {
			v := x.zone.Firewall(src.VPC, name)
			if v.Action == zone.Block && v.Response != zone.BlockOverride {
				return netip.Addr{}, x.stop("firewall", v.Response.String(), "see culvert dns-firewall describe, or ask for another name",
					"%s is blocked by rule %s", name, v.Rule)
			}
			if v.Rule != "" {
				x.ok("firewall", "%s by rule %s: %s", v.Action, v.Rule, name)
			}
			if v.Action == zone.Block {
				name, judged = v.Override, false
				x.ok("firewall", "its answer leads to %s", name)
			}
		}
		address, alias, found := x.answer(src, name)
		if alias == "" {
			return address, found
		}
		x.ok("name", "%s is an alias of %s", name, alias)
		name = alias
	}
	return netip.Addr{}, x.stop("name", "SERVFAIL", "take one out", "%s leads from one alias to another, too often", to)
}

// answer is what the resolver says of one name: an address, an alias, or why there is neither.
func (x *explainer) answer(src plan.ENI, name string) (address netip.Addr, alias string, found bool) {
	var first, other zone.Answer // of a family that the source has, and of the other one
	for _, q := range []struct {
		family plan.Families
		qtype  uint16
	}{{plan.FamilyIPv4, zone.TypeA}, {plan.FamilyIPv6, zone.TypeAAAA}} {
		a := x.zone.Lookup(src.VPC, name, q.qtype)
		if a.Alias != "" {
			return address, a.Alias, false
		}
		list := addressesOf(a)
		switch {
		case src.Families&q.family == 0:
			other = a
		case len(list) > 0:
			return list[0], "", x.ok("name", "%s is %s, of %s", name, list[0], ownerOf(a))
		default:
			first = a
		}
	}
	if first.Kind == zone.Forward {
		return address, "", x.forwarded(src.VPC, name, first)
	}
	if len(addressesOf(other)) > 0 {
		remedy := "give it an address of that family: culvert hosted-zone record put"
		if other.Endpoint != "" {
			remedy = "let it answer with both: culvert endpoint modify " + other.Endpoint + " --ip-address-type dualstack"
		}
		return address, "", x.stop("name", "NODATA", remedy, "%s has no address of a family that %s has (%s)", name, src.ID, src.Families)
	}
	if first.Hosted != "" {
		return address, "", x.stop("name", answerCode(first), "put a record there: culvert hosted-zone record put",
			"%s has no address in the hosted zone %s", name, first.Hosted)
	}
	return address, "", x.stop("name", answerCode(first), "create an endpoint with private DNS, and wait until its connection is Available",
		"no endpoint or hosted zone in this VPC answers to %s", name)
}

// forwarded says who is asked about a name that is not private.
func (x *explainer) forwarded(vpc uint32, name string, a zone.Answer) bool {
	who, list := "the VPC's forwarders", x.zone.Forwarders(vpc)
	if a.Rule >= 0 {
		rule := x.zone.Rules(vpc)[a.Rule]
		who, list = "resolver rule "+rule.ID+" ("+rule.Domain+")", rule.Forwarders
	}
	if len(list) == 0 {
		return x.stop("name", "SERVFAIL", "give it one that this node may ask: culvert resolver-rule modify",
			"%s is sent away by %s, which has no usable forwarder", name, who)
	}
	texts := make([]string, len(list))
	for i, f := range list {
		texts[i] = f.String()
	}
	return x.stop("name", "FORWARDED", "have the workload ask for it, and explain the address",
		"%s is not private: it is sent away by %s, to %s", name, who, strings.Join(texts, ", "))
}

func addressesOf(a zone.Answer) []netip.Addr {
	list := a.Addresses
	for _, r := range a.Records {
		if address, ok := netip.AddrFromSlice(r.Data); ok && (r.Type == zone.TypeA || r.Type == zone.TypeAAAA) {
			list = append(list[:len(list):len(list)], address)
		}
	}
	return list
}

func ownerOf(a zone.Answer) string {
	switch {
	case a.Endpoint != "":
		return "endpoint " + a.Endpoint
	case a.Hosted != "":
		return "hosted zone " + a.Hosted
	}
	return "the node itself"
}

func answerCode(a zone.Answer) string {
	if a.Kind == zone.NoData {
		return "NODATA"
	}
	return "NXDOMAIN"
}
