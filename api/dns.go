package api

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// DomainState is AWS's PrivateDnsNameState.
type DomainState string

// States of a domain.
const (
	DomainPending  DomainState = "pendingVerification"
	DomainVerified DomainState = "verified"
	DomainFailed   DomainState = "failed"
)

// Domain is a DNS domain that an account says is its own, and proves by a TXT record. Its Name is the domain.
type Domain struct {
	Meta
	State DomainState `json:"state"`
	// A TXT record of VerificationName must have the value VerificationValue.
	VerificationName  string    `json:"verificationName"`
	VerificationValue string    `json:"verificationValue"`
	Since             time.Time `json:"since"` // of State
	// Misses are answers without the record, one after another; silence is no answer.
	Misses  uint32 `json:"misses,omitempty"`
	Message string `json:"message,omitempty"` // what was found when it was looked at last, if not the record
}

// HostedZone holds records of a domain for the VPCs that it is associated with. Its Name is the domain.
type HostedZone struct {
	Meta
	VPCs       []string    `json:"vpcIds"`
	RecordSets []RecordSet `json:"recordSets"` // sorted by name and type
}

// RecordSet is all records of one name and type.
type RecordSet struct {
	Name       string   `json:"name"` // absolute, without trailing dot
	Type       string   `json:"type"` // one of RecordTypes
	TTLSeconds uint32   `json:"ttlSeconds"`
	Values     []string `json:"values"` // as in a zone file; see PackRecord
}

// Size is what a set counts in limits, in bytes: no less than its JSON in a view.
func (s *RecordSet) Size() int { return s.TextSize() + 64 + 4*len(s.Values) }

// TextSize is what its strings take in JSON, without the quotes around them.
func (s *RecordSet) TextSize() int {
	n := len(s.Name) + len(s.Type)
	for _, v := range s.Values {
		n += len(v)
		for i := range len(v) {
			switch v[i] {
			case '"', '\\':
				n++
			case '<', '>', '&': // \u003c
				n += 5
			}
		}
	}
	return n
}

// Size is that of all its sets.
func (z *HostedZone) Size() int {
	n := 0
	for i := range z.RecordSets {
		n += z.RecordSets[i].Size()
	}
	return n
}

// ValidateZoneDomain checks the domain of a hosted zone.
func ValidateZoneDomain(field, name string) *Error {
	if e := ValidateDomain(field, name, 1); e != nil {
		return e
	}
	switch top := name[strings.LastIndexByte(name, '.')+1:]; top {
	case "localhost", "invalid", "onion", "arpa":
		return invalid(field, "choose another domain", "%q is within %s, which has a meaning of its own", name, top)
	}
	return outsideReserved(field, name)
}

// ValidateRuleDomain checks the domain of a resolver rule, which may be one of reverse names.
func ValidateRuleDomain(field, name string) *Error {
	const ip6 = "ip6.arpa"
	if !WithinDomain(name, "in-addr.arpa") && !WithinDomain(name, ip6) {
		return ValidateZoneDomain(field, name)
	}
	if e := ValidateDomain(field, name, 1); e != nil {
		return e
	}
	if WithinDomain(name, "d.f."+ip6) { // dns/zone keeps them
		return invalid(field, "choose another domain", "%q is of reverse names of meshes' own addresses, which never leave a node", name)
	}
	return nil
}

// Validate checks the domain and what is needed to prove it.
func (d *Domain) Validate() error {
	var state *Error
	switch d.State {
	case DomainPending, DomainVerified, DomainFailed:
	default:
		state = invalid("state", "", "%q is no state of a domain", Shortened(string(d.State)))
	}
	e := ValidateDomain("domainName", d.Name, 2)
	if e == nil {
		e = outsideReserved("domainName", d.Name)
	}
	if e == nil && len(d.VerificationName) > 253 {
		e = invalid("domainName", "choose a shorter one", "%q leaves no room for the name of its TXT record", Shortened(d.Name))
	}
	return firstError(e, state, validateMeta(KindDomain, &d.Meta, false))
}

// Validate checks the domain and the records.
func (z *HostedZone) Validate() error {
	if err := firstError(ValidateZoneDomain("domainName", z.Name), validateMeta(KindHostedZone, &z.Meta, false),
		validateRefs(KindVPC, "vpcIds", z.VPCs, 0, MaxVPCsPerHostedZone)); err != nil {
		return err
	}
	if len(z.RecordSets) > MaxRecordSetsPerZone {
		return Errorf(CodeLimitExceeded, "recordSets", "make a hosted zone for a part of the domain", "%d record sets, at most %d are allowed",
			len(z.RecordSets), MaxRecordSetsPerZone)
	}
	if z.Size() > MaxHostedZoneBytes {
		return Errorf(CodeLimitExceeded, "recordSets", "make a hosted zone for a part of the domain", "the records take %d KiB, at most %d are allowed",
			z.Size()>>10, MaxHostedZoneBytes>>10)
	}
	types := map[string]map[string]bool{} // by name
	for i := range z.RecordSets {
		s := &z.RecordSets[i]
		if err := s.validate(z.Name); err != nil {
			return err
		}
		if types[s.Name] == nil {
			types[s.Name] = map[string]bool{}
		}
		if types[s.Name][s.Type] {
			return invalid("recordSets", "give all values in one set", "%s %s is given twice", s.Name, s.Type)
		}
		types[s.Name][s.Type] = true
		if types[s.Name]["CNAME"] && len(types[s.Name]) > 1 {
			return Errorf(CodeInvalidCombination, "type", "delete the others first, or give addresses in its place",
				"%s is to have a CNAME and other records, which is not allowed", s.Name)
		}
	}
	return nil
}

func (s *RecordSet) validate(domain string) error {
	form, known := recordForms[s.Type]
	switch {
	case !known:
		return invalid("type", "use A, AAAA, CNAME, TXT, SRV, MX, CAA, HTTPS or SVCB", "the type %q is not known here", Shortened(s.Type))
	case !ValidRecordName(s.Name) || !WithinDomain(s.Name, domain):
		return invalid("recordSets", "give a name in the hosted zone, in lower case, such as www."+domain,
			"%q is no name in %s", Shortened(s.Name), domain)
	case s.Type == "CNAME" && s.Name == domain:
		return invalid("type", "give addresses", "%s itself cannot be an alias", domain)
	case s.TTLSeconds > MaxRecordTTL:
		return invalid("ttlSeconds", fmt.Sprintf("give 0 to %d", MaxRecordTTL), "%d s is out of range", s.TTLSeconds)
	case len(s.Values) == 0:
		return Errorf(CodeMissingParameter, "values", "give at least one, such as "+form, "%s %s has no value", s.Name, s.Type)
	case len(s.Values) > MaxRecordsPerSet || s.Type == "CNAME" && len(s.Values) > 1:
		return Errorf(CodeLimitExceeded, "values", "remove some", "%s %s has %d values, at most %d are allowed", s.Name, s.Type, len(s.Values),
			map[bool]int{true: 1, false: MaxRecordsPerSet}[s.Type == "CNAME"])
	}
	for i, v := range s.Values {
		if len(v) > MaxRecordValueLen || !printable(v) {
			return invalid("values", fmt.Sprintf("give at most %d printable characters", MaxRecordValueLen), "a value of %s %s is malformed",
				s.Name, s.Type)
		}
		if _, err := PackRecord(s.Type, v); err != nil {
			return invalid("values", "write it as in "+form, "%q is no value of a record of type %s: %v", Shortened(v), s.Type, err)
		}
		for _, o := range s.Values[:i] {
			if o == v {
				return invalid("values", "give it once", "%q is given twice for %s %s", Shortened(v), s.Name, s.Type)
			}
		}
	}
	return nil
}

// ResolverRule sends questions about a domain, and what is below it, to forwarders of its own. Its Name is the domain.
type ResolverRule struct {
	Meta
	VPCs []string `json:"vpcIds"` // whose workloads' questions it is for
	// Forwarders and PlainForwarders as of a VPC.
	Forwarders      []string `json:"forwarders"`
	PlainForwarders bool     `json:"plainForwarders,omitempty"`
	// Inside: those of Forwarders that are no public resolvers lie in all of the VPCs, and the rule is for no others.
	Inside bool `json:"inside,omitempty"`
}

// Validate checks the domain and the forwarders.
func (r *ResolverRule) Validate() error {
	errs := []*Error{ValidateRuleDomain("domainName", r.Name), validateMeta(KindResolverRule, &r.Meta, false),
		validateRefs(KindVPC, "vpcIds", r.VPCs, 0, MaxVPCsPerResolverRule)}
	if len(r.Forwarders) == 0 {
		errs = append(errs, Errorf(CodeMissingParameter, "forwarders", "give at least one, such as tls://9.9.9.9", "no forwarder is given"))
	}
	if len(r.Forwarders) > MaxForwardersPerRule {
		errs = append(errs, Errorf(CodeLimitExceeded, "forwarders", "remove some", "%d forwarders, at most %d are allowed",
			len(r.Forwarders), MaxForwardersPerRule))
	}
	for i, f := range r.Forwarders {
		errs = append(errs, ValidateForwarder(f, r.PlainForwarders))
		if slices.Contains(r.Forwarders[:i], f) {
			errs = append(errs, invalid("forwarders", "give it once", "%q is given twice", Shortened(f)))
		}
	}
	return firstError(errs...)
}
