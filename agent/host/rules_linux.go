package host

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	nfnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// rulesReader reads what a host's own rules say of packets to it.
type rulesReader struct {
	conn        *nftables.Conn
	chains      map[string]*nftables.Chain // of one table, by name
	sets        map[string][]nftables.SetElement
	inputs      []InputChain
	reversePath string
}

// protocolAt is where an IPv4 header has the protocol, in bytes.
const protocolAt = 9

// maxDepth of jumps, as in the kernel (NFT_JUMP_STACK_SIZE of net/netfilter/nf_tables.h).
const maxDepth = 16

func (r *rulesReader) read() error {
	all, err := r.conn.ListChains()
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	tables := map[string]map[string]*nftables.Chain{}
	for _, c := range all {
		key := familyNames[c.Table.Family] + " " + c.Table.Name
		if tables[key] == nil {
			tables[key] = map[string]*nftables.Chain{}
		}
		tables[key][c.Name] = c
	}
	for _, c := range all {
		family, known := familyNames[c.Table.Family]
		if !known || c.Hooknum == nil || c.Table.Name == tableName {
			continue
		}
		r.chains = tables[family+" "+c.Table.Name]
		switch *c.Hooknum {
		case *nftables.ChainHookInput:
			in := InputChain{Family: family, Table: c.Table.Name, Name: c.Name, rules: map[string][]rule{}}
			in.drops = c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
			if err := r.follow(c, in.rules); err != nil {
				return err
			}
			in.Closed = !in.Admits(Packet{Protocol: noProtocol})
			r.inputs = append(r.inputs, in)
		case *nftables.ChainHookPrerouting:
			if err := r.lookForReversePath(c, family); err != nil {
				return err
			}
		}
	}
	return nil
}

// follow reads a chain and those that it jumps to, each once.
func (r *rulesReader) follow(c *nftables.Chain, into map[string][]rule) error {
	if c == nil || into[c.Name] != nil {
		return nil
	}
	rules, err := r.conn.GetRules(c.Table, c)
	if err != nil {
		return fmt.Errorf("rules of chain %s: %w", c.Name, err)
	}
	into[c.Name] = []rule{}
	for _, raw := range rules {
		x := ruleReader{r: r, raw: raw}
		if err := x.read(); err != nil {
			return err
		}
		into[c.Name] = append(into[c.Name], x.rule)
		for _, name := range x.jumps {
			if err := r.follow(r.chains[name], into); err != nil {
				return err
			}
		}
	}
	return nil
}

// lookForReversePath notes a rule that drops by the way back.
func (r *rulesReader) lookForReversePath(c *nftables.Chain, family string) error {
	rules, err := r.conn.GetRules(c.Table, c)
	if err != nil {
		return fmt.Errorf("rules of chain %s: %w", c.Name, err)
	}
	for _, rule := range rules {
		fib := slices.ContainsFunc(rule.Exprs, func(e expr.Any) bool {
			f, is := e.(*expr.Fib)
			return is && f.FlagSADDR && f.FlagIIF
		})
		drops := slices.ContainsFunc(rule.Exprs, func(e expr.Any) bool {
			v, is := e.(*expr.Verdict)
			return is && v.Kind == expr.VerdictDrop
		})
		if fib && drops {
			r.reversePath = family + " " + c.Table.Name
		}
	}
	return nil
}

// rule is what matters of one.
type rule struct {
	protocol byte // of IP; 0: any
	ranges   []portRange
	other    bool // asks something else besides: whether it is about a packet is not known
	// established or of this host itself: nothing new is let in by it.
	established, local bool
	from               []string // interfaces that packets must come by one of; one that ends in * is the beginning of names; none: any
	accepts, drops     bool
	jumps              []string
}

// ruleReader reads one rule.
type ruleReader struct {
	r    *rulesReader
	raw  *nftables.Rule
	last expr.Any // that loaded a register
	rule
}

func (x *ruleReader) read() error {
	for _, e := range x.raw.Exprs {
		switch e := e.(type) {
		case *expr.Payload, *expr.Meta:
			x.last = e
		case *expr.Ct:
			x.last, x.established = e, x.established || e.Key == expr.CtKeySTATE
		case *expr.Cmp:
			x.compare(e)
		case *expr.Range:
			if x.isPort() && e.Op == expr.CmpOpEq && len(e.FromData) == 2 && len(e.ToData) == 2 {
				x.ranges = append(x.ranges, portRange{binary.BigEndian.Uint16(e.FromData), binary.BigEndian.Uint16(e.ToData)})
			}
			x.other = x.other || !x.isPort()
		case *expr.Lookup:
			if err := x.lookup(e); err != nil {
				return err
			}
		case *expr.Match:
			x.match(e)
		case *expr.Fib, *expr.Limit, *expr.Socket, *expr.Exthdr, *expr.Numgen:
			x.last, x.other = e, true
		case *expr.Verdict:
			x.verdict(*e)
		case *expr.Reject:
			x.drops = true
		case *expr.Target: // of iptables
			x.drops = x.drops || e.Name == "REJECT" || e.Name == "DROP"
		}
	}
	return nil
}

func (x *ruleReader) verdict(v expr.Verdict) {
	switch v.Kind {
	case expr.VerdictAccept:
		x.accepts = true
	case expr.VerdictDrop:
		x.drops = true
	case expr.VerdictJump, expr.VerdictGoto:
		x.jumps = append(x.jumps, v.Chain)
	}
}

// isPort: what was loaded last is the destination port.
func (x *ruleReader) isPort() bool {
	p, is := x.last.(*expr.Payload)
	return is && p.Base == expr.PayloadBaseTransportHeader && p.Offset == destinationPortAt && p.Len == 2
}

// isProtocol: it is the protocol above IP, by whichever of the ways to say it.
func (x *ruleReader) isProtocol() bool {
	p, is := x.last.(*expr.Payload)
	return x.isMeta(expr.MetaKeyL4PROTO) ||
		is && p.Base == expr.PayloadBaseNetworkHeader && p.Len == 1 && (p.Offset == protocolAt || p.Offset == nextHeaderAt)
}

func (x *ruleReader) isMeta(key expr.MetaKey) bool {
	m, is := x.last.(*expr.Meta)
	return is && m.Key == key
}

func (x *ruleReader) compare(e *expr.Cmp) {
	switch {
	case x.isPort() && len(e.Data) == 2:
		port := binary.BigEndian.Uint16(e.Data)
		switch e.Op {
		case expr.CmpOpEq:
			x.ranges = append(x.ranges, portRange{port, port})
		case expr.CmpOpGte:
			x.ranges = append(x.ranges, portRange{port, 65535})
		case expr.CmpOpLte: // after the lower end
			if n := len(x.ranges); n > 0 {
				x.ranges[n-1].high = port
			} else {
				x.ranges = append(x.ranges, portRange{0, port})
			}
		}
	case x.isProtocol() && e.Op == expr.CmpOpEq && len(e.Data) == 1:
		x.protocol = e.Data[0]
	case x.isMeta(expr.MetaKeyIIFNAME) && e.Op == expr.CmpOpEq:
		x.from = []string{ruleInterface(e.Data)}
		x.local = x.from[0] == "lo"
	case x.isMeta(expr.MetaKeyIIF) && e.Op == expr.CmpOpEq && len(e.Data) == 4:
		x.local = binary.NativeEndian.Uint32(e.Data) == 1 // the loopback interface, in every namespace
		if x.other = true; x.local {
			x.from, x.other = []string{"lo"}, false
		}
	default:
		x.other = true
	}
}

// lookup reads a set of ports, or a map from ports to verdicts. Of other sets only where their verdicts lead matters.
func (x *ruleReader) lookup(e *expr.Lookup) error {
	verdicts := e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT
	named := x.isMeta(expr.MetaKeyIIFNAME) && !verdicts && !e.Invert
	x.other = x.other || !x.isPort() && !named || e.Invert
	if e.Invert || !verdicts && !x.isPort() && !named { // may be of any size
		return nil
	}
	elements, err := x.r.set(x.raw.Table, e.SetName)
	if err != nil {
		return err
	}
	if named {
		for _, el := range elements {
			x.from = append(x.from, ruleInterface(el.Key))
		}
		return nil
	}
	isPort := x.isPort()
	for i, el := range elements {
		if verdicts {
			v, err := readVerdict(el.Val)
			if err != nil {
				return fmt.Errorf("set %s: %w", e.SetName, err)
			}
			if v.Kind != expr.VerdictAccept {
				x.other = true // of one key among several
				x.verdict(v)
				continue
			}
		}
		if !isPort || len(el.Key) != 2 || el.IntervalEnd {
			continue
		}
		ports := portRange{binary.BigEndian.Uint16(el.Key), binary.BigEndian.Uint16(el.Key)}
		if i+1 < len(elements) && elements[i+1].IntervalEnd && len(elements[i+1].Key) == 2 {
			ports.high = binary.BigEndian.Uint16(elements[i+1].Key) - 1
		}
		x.ranges = append(x.ranges, ports)
		x.accepts = x.accepts || verdicts
	}
	return nil
}

// ruleInterface reads the name of one as rules have it: padded, or cut where any end will do.
func ruleInterface(b []byte) string {
	name, _, whole := strings.Cut(string(b), "\x00")
	if !whole {
		name += "*"
	}
	return name
}

// readVerdict reads what a map of verdicts holds, which google/nftables hands out as it came: attributes NFTA_VERDICT_CODE
// and, of jumps, NFTA_VERDICT_CHAIN (linux/netfilter/nf_tables.h).
func readVerdict(b []byte) (v expr.Verdict, err error) {
	ad, err := nfnl.NewAttributeDecoder(b)
	if err != nil {
		return v, err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			v.Kind = expr.VerdictKind(int32(ad.Uint32()))
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = ad.String()
		}
	}
	return v, ad.Err()
}

// set reads the elements of a set, in the order of their keys.
func (r *rulesReader) set(t *nftables.Table, name string) ([]nftables.SetElement, error) {
	key := fmt.Sprintf("%d %s %s", t.Family, t.Name, name)
	if elements, known := r.sets[key]; known {
		return elements, nil
	}
	s, err := r.conn.GetSetByName(t, name)
	if err != nil {
		return nil, fmt.Errorf("set %s: %w", name, err)
	}
	elements, err := r.conn.GetSetElements(s)
	if err != nil {
		return nil, fmt.Errorf("set %s: %w", name, err)
	}
	slices.SortStableFunc(elements, func(a, b nftables.SetElement) int { return slices.Compare(a.Key, b.Key) })
	r.sets[key] = elements
	return elements, nil
}

// match reads an extension of iptables, as iptables-nft writes it.
func (x *ruleReader) match(e *expr.Match) {
	switch info := e.Info.(type) {
	case *xt.Udp:
		x.protocol, x.ranges = unix.IPPROTO_UDP, append(x.ranges, portRange{info.DstPorts[0], info.DstPorts[1]})
	case *xt.Tcp:
		x.protocol, x.ranges = unix.IPPROTO_TCP, append(x.ranges, portRange{info.DstPorts[0], info.DstPorts[1]})
	}
	if raw, is := e.Info.(*xt.Unknown); is && e.Name == "multiport" {
		x.ranges = append(x.ranges, multiport(*raw)...)
	}
	x.established = x.established || e.Name == "conntrack" || e.Name == "state"
	x.other = x.other || !slices.Contains([]string{"udp", "tcp", "multiport", "comment"}, e.Name)
}

// Where fields of struct xt_multiport_v1 lie (linux/netfilter/xt_multiport.h), in bytes; ports are in host byte order.
const (
	multiportCount  = 1
	multiportPorts  = 2
	multiportFlags  = multiportPorts + 2*multiportMost
	multiportInvert = multiportFlags + multiportMost
	multiportMost   = 15 // XT_MULTI_PORTS
	multiportSource = 0  // XT_MULTIPORT_SOURCE
)

// multiport reads a list of destination ports and ranges; a port with a flag begins a range that the next one ends.
func multiport(b []byte) (ranges []portRange) {
	if len(b) <= multiportInvert || b[0] == multiportSource || b[multiportInvert] != 0 {
		return nil
	}
	port := func(i int) uint16 { return binary.NativeEndian.Uint16(b[multiportPorts+2*i:]) }
	for i := 0; i < min(int(b[multiportCount]), multiportMost); i++ {
		r := portRange{port(i), port(i)}
		if b[multiportFlags+i] != 0 && i+1 < multiportMost {
			i++
			r.high = port(i)
		}
		ranges = append(ranges, r)
	}
	return ranges
}
