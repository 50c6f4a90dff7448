package zone

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Rule sends questions about a domain, and what is below it, to forwarders of its own.
type Rule struct {
	ID         string
	Domain     string
	Forwarders []string // see ParseForwarder; at most MaxForwarders
	Plain      bool     // plain DNS over the underlay is allowed
}

// CompiledRule is a Rule with those of its forwarders that may be asked. With none nobody is asked: the VPC's own forwarders are
// not a substitute.
type CompiledRule struct {
	ID         string
	Domain     string
	Forwarders []Forwarder
}

// addRules gives a VPC its rules; of two for one domain the first by id stays.
func (z *Zone) addRules(s *space, list []Rule) (problems []error) {
	list = slices.SortedFunc(slices.Values(list), func(a, b Rule) int { return strings.Compare(a.ID, b.ID) })
	for _, r := range list {
		domain, wild, err := parseRuleDomain(r.Domain)
		switch _, taken := s.ruleOf[domain]; {
		case err == nil && wild:
			err = fmt.Errorf("a domain has no wildcard")
		case err == nil && taken:
			err = fmt.Errorf("has a rule already")
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("resolver rule %s: %q: %w", r.ID, r.Domain, err))
			continue
		}
		list, errs := z.forwarders(r.Forwarders, r.Plain, s.cidr)
		for _, err := range errs {
			problems = append(problems, fmt.Errorf("resolver rule %s: %w", r.ID, err))
		}
		s.ruleOf[domain] = len(s.rules)
		s.rules = append(s.rules, CompiledRule{ID: r.ID, Domain: domain, Forwarders: list})
	}
	return problems
}

// forwarders reads a list, and names what it leaves out.
func (z *Zone) forwarders(list []string, plain bool, cidr netip.Prefix) (out []Forwarder, problems []error) {
	for _, text := range list {
		f, err := ParseForwarder(text, plain, cidr)
		if err == nil {
			err = z.CheckForwarder(f, nil)
		}
		if err == nil && len(out) == MaxForwarders {
			err = fmt.Errorf("forwarder %q: more than %d", text, MaxForwarders)
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		out = append(out, f)
	}
	return out, problems
}

// Rules returns a VPC's rules; Answer.Rule counts in them. The caller does not change the slice.
func (z *Zone) Rules(vpc uint32) []CompiledRule {
	if s := z.vpcs[vpc]; s != nil {
		return s.rules
	}
	return nil
}

// Action is what the query firewall does with a question.
type Action uint8

// Actions. The zero value lets a question pass.
const (
	Allow Action = iota
	Block
	Alert // let it pass, and say so in the query log
)

// String is AWS's word.
func (a Action) String() string { return [...]string{"ALLOW", "BLOCK", "ALERT"}[a] }

// Response is what a blocked question gets.
type Response uint8

// Responses.
const (
	BlockNoData   Response = iota // the name exists, and has no such record
	BlockNXDomain                 // the name does not exist
	BlockOverride                 // an alias to another name
	BlockFailure                  // none: the rules are not known
)

// String is AWS's word, and DNS's where AWS has none.
func (r Response) String() string {
	return [...]string{"NODATA", "NXDOMAIN", "OVERRIDE", "SERVFAIL"}[r]
}

// FirewallRule says what becomes of questions about some domains. The first rule that has the name decides.
type FirewallRule struct {
	ID      string
	Action  Action
	Domains []string // a name; "*.x": all below x; "*": all
	// Response is for Block; with BlockOverride the alias is Override, for TTL seconds.
	Response Response
	Override string
	TTL      uint32
}

// Verdict is what the query firewall says of a question. Rule is empty when no rule has the name.
type Verdict struct {
	Action   Action
	Rule     string
	Response Response
	Override string // without trailing dot
	TTL      uint32
}

// firewall finds the first rule for a name, by names and by what they are below.
type firewall struct {
	verdicts     []Verdict
	exact, below map[string]int
	all          int  // first rule for every name, len(verdicts) when there is none
	watches      bool // some rule blocks or alerts
}

type builtFirewall struct {
	*firewall
	problems []error
}

// firewall builds one, or gives what was built of the same slice for another VPC.
func (b builder) firewall(list []FirewallRule) (*firewall, []error) {
	if len(list) == 0 {
		return nil, nil
	}
	done, ok := b.firewalls[&list[0]]
	if !ok || len(done.verdicts) != len(list) {
		done.firewall, done.problems = newFirewall(list)
		b.firewalls[&list[0]] = done
	}
	return done.firewall, done.problems
}

func newFirewall(list []FirewallRule) (f *firewall, problems []error) {
	f = &firewall{exact: map[string]int{}, below: map[string]int{}, all: len(list)}
	for i, r := range list {
		f.watches = f.watches || r.Action != Allow
		f.verdicts = append(f.verdicts, Verdict{Action: r.Action, Rule: r.ID, Response: r.Response,
			Override: canonical(r.Override), TTL: r.TTL})
		for _, text := range r.Domains {
			if text == "*" {
				f.all = min(f.all, i)
				continue
			}
			name, wild := strings.CutPrefix(canonical(text), "*.")
			set := f.exact
			if wild {
				set = f.below
			}
			if _, earlier := set[name]; !earlier {
				set[name] = i
			}
			if err := checkLabels(name); err != nil {
				problems = append(problems, fmt.Errorf("firewall rule %s: %q: %w", r.ID, text, err))
			}
		}
	}
	return f, problems
}

func checkLabels(name string) error {
	for label := range strings.SplitSeq(name, ".") {
		if err := checkLabel(label); err != nil {
			return err
		}
	}
	return nil
}

// judge finds the verdict on a canonical name.
func (f *firewall) judge(name string) Verdict {
	first := f.all
	if i, ok := f.exact[name]; ok {
		first = min(first, i)
	}
	for off := nextLabel(name, 0); off < len(name); off = nextLabel(name, off) {
		if i, ok := f.below[name[off:]]; ok {
			first = min(first, i)
		}
	}
	if first == len(f.verdicts) {
		return Verdict{}
	}
	return f.verdicts[first]
}

// Firewall says what becomes of a question, before anything else is looked at.
func (z *Zone) Firewall(vpc uint32, qname string) Verdict {
	s := z.vpcs[vpc]
	if s == nil || s.firewall == nil {
		return Verdict{}
	}
	return s.firewall.judge(canonical(qname))
}

// Watches reports whether a VPC has a query firewall that may block questions, or let them pass with an alert.
func (z *Zone) Watches(vpc uint32) bool {
	s := z.vpcs[vpc]
	return s != nil && s.firewall != nil && s.firewall.watches
}

// QueryLog reports whether a VPC's questions are to be logged.
func (z *Zone) QueryLog(vpc uint32) bool {
	s := z.vpcs[vpc]
	return s != nil && s.queryLog
}
