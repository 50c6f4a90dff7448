package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// ProtocolAny matches every protocol in a Rule.
const ProtocolAny uint16 = 256

// IANA protocol numbers that the datapath knows.
const (
	ProtocolICMP uint8 = 1
	ProtocolTCP  uint8 = 6
	ProtocolUDP  uint8 = 17

	ProtocolICMPv6 uint8 = 58
)

// OpenRuleName names the one rule of the set that a load balancer without security groups has: it allows all.
const OpenRuleName = "no-groups"

// RuleNumber is the number of a rule in flow entries and records: a 32-bit hash of its name (sgr-…), never 0.
func RuleNumber(name string) uint32 {
	if h := textHash(name); h != 0 {
		return h
	}
	return 1
}

// textHash is FNV-1a, 32 bits.
func textHash(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}

// String is the rule's line in a RuleSet: NAME PROTOCOL LOW-HIGH PREFIX, or group:NUMBER in place of PREFIX.
func (r Rule) String() string {
	peer := r.Prefix.String()
	if r.Group != 0 {
		peer = "group:" + strconv.FormatUint(uint64(r.Group), 10)
	}
	return fmt.Sprintf("%s %d %d-%d %s", r.Name, r.Protocol, r.PortLow, r.PortHigh, peer)
}

// ParseRules reads a RuleSet's text back, in its order.
func ParseRules(text string) ([]Rule, error) {
	var rules []Rule
	for n, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if text == "" {
			break
		}
		r, err := parseRule(line)
		if err != nil {
			return nil, fmt.Errorf("rule set line %d: %w", n+1, err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func parseRule(line string) (Rule, error) {
	f := strings.Split(line, " ")
	if len(f) != 4 {
		return Rule{}, fmt.Errorf("want 4 fields, got %d in %q", len(f), line)
	}
	protocol, err := strconv.ParseUint(f[1], 10, 16)
	if err != nil || protocol > uint64(ProtocolAny) {
		return Rule{}, fmt.Errorf("protocol %q: not a number from 0 to 256", f[1])
	}
	low, high, _ := strings.Cut(f[2], "-")
	portLow, errLow := strconv.ParseUint(low, 10, 16)
	portHigh, errHigh := strconv.ParseUint(high, 10, 16)
	if errLow != nil || errHigh != nil || portLow > portHigh {
		return Rule{}, fmt.Errorf("ports %q: not LOW-HIGH", f[2])
	}
	r := Rule{
		Name: f[0], ID: RuleNumber(f[0]), Protocol: uint16(protocol),
		PortLow: uint16(portLow), PortHigh: uint16(portHigh),
	}
	if group, ok := strings.CutPrefix(f[3], "group:"); ok {
		number, err := strconv.ParseUint(group, 10, 32)
		if err != nil || number == 0 {
			return Rule{}, fmt.Errorf("group %q: not a number above 0", group)
		}
		r.Group = uint32(number)
		return r, nil
	}
	if r.Prefix, err = netip.ParsePrefix(f[3]); err != nil {
		return Rule{}, fmt.Errorf("prefix %q: not a prefix", f[3])
	}
	if !r.Prefix.Addr().Is4() {
		if e := api.ValidateIPv6Prefix("prefix", r.Prefix); e != nil {
			return Rule{}, e
		}
	}
	return r, nil
}

// compareRules orders by what a rule matches, then by name, so that equal matches stand together.
func compareRules(a, b Rule) int {
	return strings.Compare(ruleOrder(a), ruleOrder(b))
}

// ruleOrder is unique per (match, name); the name is last.
func ruleOrder(r Rule) string { return ruleMatch(r) + " " + r.Name }

func ruleMatch(r Rule) string {
	peer := "g" + pad(uint64(r.Group))
	if r.Group == 0 {
		peer = fmt.Sprintf("a%x/%03d", r.Prefix.Addr().AsSlice(), r.Prefix.Bits())
		if r.Prefix.Addr().Is6() {
			peer = "b" + peer
		}
	}
	return pad(uint64(r.Protocol)) + pad(uint64(r.PortLow)) + pad(uint64(r.PortHigh)) + peer
}

// canonicalRules sorts and drops rules that match the same as one before; the smallest name stays.
func canonicalRules(rules []Rule) []Rule {
	rules = slices.Clone(rules)
	slices.SortFunc(rules, compareRules)
	return slices.CompactFunc(rules, func(a, b Rule) bool { return ruleMatch(a) == ruleMatch(b) })
}

var errTooManyRules = fmt.Errorf("the datapath holds %d rules together: use fewer or wider ones", LimitRules)

// merged joins prefixes of rules that are equal otherwise, name included: contained ones fall away, two halves become one.
// It matches the same addresses. The order of the result says nothing.
func merged(rules []Rule) []Rule {
	have := map[Rule]bool{}
	var byBits [addressBits6 + 1][]Rule
	add := func(r Rule) {
		if !have[r] && r.Group == 0 {
			byBits[r.Prefix.Bits()] = append(byBits[r.Prefix.Bits()], r)
		}
		have[r] = true
	}
	for _, r := range rules {
		add(r)
	}
	for bits := addressBits6; bits > 0; bits-- {
		for _, r := range byBits[bits] {
			other := r
			var ok bool
			if other.Prefix, ok = twin(r.Prefix); ok && have[r] && have[other] {
				delete(have, r)
				delete(have, other)
				add(widened(r, bits-1))
			}
		}
	}
	for r := range have {
		for bits := 0; r.Group == 0 && bits < r.Prefix.Bits(); bits++ {
			if have[widened(r, bits)] {
				delete(have, r)
				break
			}
		}
	}
	return slices.Collect(maps.Keys(have))
}

func widened(r Rule, bits int) Rule {
	r.Prefix = netip.PrefixFrom(r.Prefix.Addr(), bits).Masked()
	return r
}

// ruleBook gives rule sets their ids.
type ruleBook struct {
	ids *idBook
}

// id returns the set's id, 0 for one that is empty: nothing matches it. Its only error is errTooManyRules.
func (b *ruleBook) id(rules []Rule) (uint32, error) {
	rules = canonicalRules(rules)
	if len(rules) == 0 {
		return 0, nil
	}
	if len(rules) > LimitRules {
		return 0, errTooManyRules
	}
	var text strings.Builder
	for _, r := range rules {
		text.WriteString(r.String())
		text.WriteByte('\n')
	}
	return b.ids.id(text.String()), nil
}

// keep forgets all sets but these.
func (b *ruleBook) keep(ids map[uint32]bool) {
	maps.DeleteFunc(b.ids.byText, func(_ string, id uint32) bool { return !ids[id] })
}

func (b *ruleBook) rows() []RuleSet {
	var rows []RuleSet
	for text, id := range b.ids.byText {
		rows = append(rows, RuleSet{ID: id, Text: text})
	}
	return rows
}

// idBook gives texts numbers: a hash, and on a collision the next free one. The order of asking decides who keeps the
// hash, so callers ask in an order that depends on content only.
type idBook struct {
	hash   func(string) uint32
	byText map[string]uint32
	taken  map[uint32]bool
}

func newIDBook(hash func(string) uint32) *idBook {
	return &idBook{hash: hash, byText: map[string]uint32{}, taken: map[uint32]bool{0: true}}
}

func (b *idBook) id(text string) uint32 {
	if id, ok := b.byText[text]; ok {
		return id
	}
	id := b.hash(text)
	for b.taken[id] {
		id++
	}
	b.taken[id] = true
	b.byText[text] = id
	return id
}
