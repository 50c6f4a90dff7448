package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// hostedZones fills HostedZones. What was left out of a view stays as a domain without names. Domains and records are tenants' texts:
// what of them is wrong is left out, as dns/zone does, and does not keep the rest of the view from the node.
func (c *compiler) hostedZones() error {
	taken := map[string]bool{} // by VPC and domain
	for i := range c.view.HostedZones {
		z := &c.view.HostedZones[i]
		field := fmt.Sprintf("hostedZones[%q]", z.ID)
		if err := checkIDs(field, z.ID); err != nil {
			return err
		}
		if len(z.VPCs) == 0 || i > 0 && c.view.HostedZones[i-1].ID == z.ID {
			return fmt.Errorf("%s.vpcs: none, or the zone stands twice", field)
		}
		var vpcs []string
		for _, number := range z.VPCs {
			vpc := c.vpcs[number]
			if vpc == nil || !vpc.Local {
				return fmt.Errorf("%s.vpcs: %d is no VPC of this node", field, number)
			}
			key := pad(uint64(number)) + "/" + z.Domain
			if taken[key] {
				c.leave("hostedZones", number, "another one has the domain in the VPC, too", z.ID)
				continue
			}
			taken[key] = true
			vpcs = append(vpcs, strconv.FormatUint(uint64(number), 10))
		}
		if !validName(z.Domain) || strings.HasPrefix(z.Domain, "*") {
			c.leave("hostedZones", z.VPCs[0], notAName, z.ID)
			continue
		}
		if len(vpcs) == 0 {
			continue
		}
		if z.LeftOut != "" {
			c.leave("hostedZones", z.VPCs[0], z.LeftOut, z.ID)
		}
		c.plan.HostedZones = append(c.plan.HostedZones, HostedZone{ID: z.ID, Account: z.Account, Domain: z.Domain,
			VPCs: strings.Join(vpcs, ","), Text: c.recordsText(z)})
	}
	return nil
}

// recordsText is one line for each record that can be written as one.
func (c *compiler) recordsText(z *api.ViewHostedZone) string {
	var b strings.Builder
	leave := func(s *api.RecordSet, why string) {
		c.leave("hostedZones: record sets", z.VPCs[0], why, fmt.Sprintf("%s %q %q", z.ID, api.Shortened(s.Name), api.Shortened(s.Type)))
	}
	for i := range z.RecordSets {
		s := &z.RecordSets[i]
		switch {
		case !validName(s.Name) || !api.WithinDomain(s.Name, z.Domain) || api.RecordTypes[s.Type] == 0 || s.TTLSeconds > api.MaxRecordTTL:
			leave(s, "no name in the zone, or no type")
			continue
		case slices.ContainsFunc(s.Values, func(v string) bool { return strings.ContainsAny(v, "\n\r") }):
			leave(s, "a value has several lines")
			continue
		}
		for _, v := range s.Values {
			fmt.Fprintf(&b, "%s %d %s %s\n", s.Name, s.TTLSeconds, s.Type, v)
		}
	}
	return b.String()
}

// RecordSets reads the text back.
func (z HostedZone) RecordSets() (out []api.RecordSet, err error) {
	for line := range strings.Lines(z.Text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 {
			return nil, fmt.Errorf("hosted zone %s: %q is no record", z.ID, line)
		}
		ttl, err := strconv.ParseUint(f[1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("hosted zone %s: %q is no record", z.ID, line)
		}
		if n := len(out); n > 0 && out[n-1].Name == f[0] && out[n-1].Type == f[2] {
			out[n-1].Values = append(out[n-1].Values, f[3])
			continue
		}
		out = append(out, api.RecordSet{Name: f[0], Type: f[2], TTLSeconds: uint32(ttl), Values: []string{f[3]}})
	}
	return out, nil
}

// Numbers are the VPCs.
func (z HostedZone) Numbers() []uint32 { return numbers(z.VPCs) }

func numbers(list string) (out []uint32) {
	for text := range strings.SplitSeq(list, ",") {
		if n, err := strconv.ParseUint(text, 10, 32); err == nil {
			out = append(out, uint32(n))
		}
	}
	return out
}
