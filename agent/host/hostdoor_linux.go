package host

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// hostDoor is the door of the host's own link. It is one chain of table "inet culvert", at the hook that every packet
// passes before it is routed: so what it drops is neither delivered nor forwarded, nor can another table rewrite its
// destination first. It keeps no state and does not depend on the link, so it outlives both the link and the agent.
type hostDoor struct{ ruleset }

func (s *space) hostDoor() hostDoor { return hostDoor{ruleset{s.file, nftables.TableFamilyINet}} }

// opening is what the host's door lets through to one address: UDP and TCP from the mesh to the resolver's port, UDP from
// other nodes to the agent's, TCP from the mesh that opens no connection. The zero value is nothing at all.
type opening struct {
	mesh     netip.Prefix
	address  netip.Addr
	resolver uint16 // ports; 0: shut
	node     uint16
	answers  bool
}

func (s HostSpec) opening() opening {
	if s.ResolverPort == 0 && s.NodePort == 0 && !s.Probes {
		return opening{}
	}
	return opening{s.Mesh.Masked(), s.Address, s.ResolverPort, s.NodePort, s.Probes}
}

// Where fields lie in an IPv6 header and in those of TCP and UDP, in bytes.
const (
	nextHeaderAt      = 6
	sourceAt          = 8
	destinationAt     = 24
	destinationPortAt = 2
	flagsAt           = 13
)

// Where the expressions of a rule that accepts hold what differs between openings.
const (
	sourceExpr  = 5
	addressExpr = 7
	portExpr    = 11
)

const (
	meshBytes = 4 // a mesh's prefix has 32 bits
	nodeBytes = 8 // what nodes' own addresses begin with: the mesh's prefix, and VPC 0

	flagSYN, flagACK = 0x02, 0x10
)

// rules are the chain's rules. The next header is compared in the fixed header, so a packet with extension headers is
// dropped, a fragment among them.
func (o opening) rules() (rules [][]expr.Any) {
	if o.resolver != 0 {
		for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			rules = append(rules, o.accept(meshBytes, protocol, toPort(o.resolver)...))
		}
	}
	if o.node != 0 {
		rules = append(rules, o.accept(nodeBytes, unix.IPPROTO_UDP, toPort(o.node)...))
	}
	if o.answers {
		rules = append(rules, o.accept(meshBytes, unix.IPPROTO_TCP,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flagsAt, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{flagSYN | flagACK}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{flagSYN}}))
	}
	return append(rules, append(fromHost(), &expr.Verdict{Kind: expr.VerdictDrop}))
}

// accept lets through what comes from addresses that begin as the mesh's prefix does, in so many bytes, then zeros.
func (o opening) accept(bytes int, protocol byte, rest ...expr.Any) []expr.Any {
	source := o.mesh.Addr().As16()
	rule := append(fromHost(), &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{unix.NFPROTO_IPV6}))
	rule = append(rule, field(expr.PayloadBaseNetworkHeader, sourceAt, source[:bytes])...)
	rule = append(rule, field(expr.PayloadBaseNetworkHeader, destinationAt, o.address.AsSlice())...)
	rule = append(rule, field(expr.PayloadBaseNetworkHeader, nextHeaderAt, []byte{protocol})...)
	return append(append(rule, rest...), &expr.Verdict{Kind: expr.VerdictAccept})
}

func toPort(port uint16) []expr.Any {
	return field(expr.PayloadBaseTransportHeader, destinationPortAt, binary.BigEndian.AppendUint16(nil, port))
}

// fromHost matches what comes in by the host's own link.
func fromHost() []expr.Any {
	var name [unix.IFNAMSIZ]byte
	copy(name[:], HostName)
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, equal(name[:])}
}

func field(base expr.PayloadBase, offset uint32, want []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(want))}, equal(want),
	}
}

func equal(want []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want} }

// state reads what the door lets through; shut is false when it is absent, or not as this package makes it.
func (d hostDoor) state() (o opening, shut bool, err error) {
	asleep, there, err := d.inspect()
	if err != nil || !there || asleep {
		return opening{}, false, err
	}
	chains, err := d.chains()
	if err != nil {
		return opening{}, false, err
	}
	i := slices.IndexFunc(chains, func(c chain) bool { return c.name == HostName })
	if i < 0 || !chains[i].early() {
		return opening{}, false, nil
	}
	rules, err := d.rules()
	if err != nil {
		return opening{}, false, err
	}
	o, shut = readOpening(rules)
	return o, shut, nil
}

// early tells whether all packets of the namespace pass a chain, before any other chain.
func (c chain) early() bool {
	return c.based && c.kind == chainFilterType && c.hook == unix.NF_INET_PRE_ROUTING &&
		c.priority == doorPriority && c.policy == nfAccept
}

func (d hostDoor) rules() (out [][]expr.Any, err error) {
	c, err := d.conn()
	if err != nil {
		return nil, err
	}
	rules, err := dump(func() ([]*nftables.Rule, error) { return c.GetRules(d.table(), &nftables.Chain{Name: HostName}) })
	if err != nil {
		return nil, fmt.Errorf("list nftables rules: %w", err)
	}
	for _, r := range rules {
		out = append(out, r.Exprs)
	}
	return out, nil
}

// readOpening reads rules back; ok is false unless they are exactly those of some opening.
func readOpening(rules [][]expr.Any) (o opening, ok bool) {
	for _, rule := range rules[:max(0, len(rules)-1)] {
		source, address := compared(rule, sourceExpr), compared(rule, addressExpr)
		if len(source) < meshBytes {
			return opening{}, false
		}
		mesh, okMesh := netip.AddrFromSlice(append(source[:meshBytes:meshBytes], make([]byte, 16-meshBytes)...))
		to, okAddress := netip.AddrFromSlice(address)
		if !okMesh || !okAddress {
			return opening{}, false
		}
		o.mesh, o.address = netip.PrefixFrom(mesh, 8*meshBytes), to
		port := compared(rule, portExpr)
		switch {
		case len(port) != 2:
			o.answers = true
		case len(source) == nodeBytes:
			o.node = binary.BigEndian.Uint16(port)
		default:
			o.resolver = binary.BigEndian.Uint16(port)
		}
	}
	return o, slices.EqualFunc(rules, o.rules(), sameRule)
}

// compared is a copy of what the i-th expression of a rule compares with; nil if it does not.
func compared(rule []expr.Any, i int) []byte {
	if i >= len(rule) {
		return nil
	}
	c, ok := rule[i].(*expr.Cmp)
	if !ok {
		return nil
	}
	return slices.Clone(c.Data)
}

func sameRule(a, b []expr.Any) bool {
	return slices.EqualFunc(a, b, func(x, y expr.Any) bool {
		bx, errX := expr.Marshal(unix.NFPROTO_INET, x)
		by, errY := expr.Marshal(unix.NFPROTO_INET, y)
		return errX == nil && errY == nil && bytes.Equal(bx, by)
	})
}

// close makes the door let through what is wanted and nothing else. A table that is not as it should be is replaced at
// one blow.
func (d hostDoor) close(want opening) error {
	have, shut, err := d.state()
	if err != nil {
		return err
	}
	if shut && have == want {
		return nil
	}
	c, err := d.conn()
	if err != nil {
		return err
	}
	t := c.AddTable(d.table()) // one that is absent cannot be deleted
	c.DelTable(t)
	c.AddTable(t)
	accept := nftables.ChainPolicyAccept // other links' packets pass here, too
	in := c.AddChain(&nftables.Chain{
		Name: HostName, Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRef(doorPriority), Policy: &accept,
	})
	for _, rule := range want.rules() {
		c.AddRule(&nftables.Rule{Table: t, Chain: in, Exprs: rule})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("close door of %s: %w", HostName, err)
	}
	if have, shut, err = d.state(); err != nil {
		return err
	} else if !shut || have != want {
		return fmt.Errorf("close door of %s: %w: the kernel's chain is not what was asked for", HostName, ErrOpenDoor)
	}
	return nil
}

// closed tells whether a link's door, of either kind, is closed.
func (s *space) closed(ifname string) (bool, error) {
	if ifname == HostName {
		_, shut, err := s.hostDoor().state()
		return shut, err
	}
	return s.door().closed(ifname)
}
