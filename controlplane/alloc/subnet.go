package alloc

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// reservedLow counts the addresses at a subnet's base that are never given: network, router, resolver, one for later use.
// The last address is reserved too. Both as in AWS.
const reservedLow = 4

// Subnet is what is taken in one subnet.
type Subnet struct {
	CIDR   netip.Prefix
	Blocks []api.Block
	// Used holds the addresses of all ENIs of the subnet.
	Used map[netip.Addr]bool
}

// Reserved reports whether an address of a subnet is never given to an ENI.
func Reserved(cidr netip.Prefix, a netip.Addr) bool {
	off := number(a) - number(cidr.Addr())
	return off < reservedLow || off == size(cidr)-1
}

// Router is the address that a subnet's workloads use as their gateway: base + 1.
func Router(cidr netip.Prefix) netip.Addr { return address(number(cidr.Addr()) + 1) }

// Resolver is the subnet's DNS resolver: base + 2.
func Resolver(cidr netip.Prefix) netip.Addr { return address(number(cidr.Addr()) + 2) }

// ForNode gives an address for a workload on a node: from the node's blocks, else from a new block, which is then returned
// too and is to be added to the subnet, else a single one.
func (s *Subnet) ForNode(node string) (netip.Addr, *api.Block, error) {
	for _, b := range s.Blocks {
		if b.Node != node {
			continue
		}
		if a, ok := s.lowestFree(b.CIDR); ok {
			return a, nil, nil
		}
	}
	if b, ok := s.freeBlock(); ok {
		if a, ok := s.lowestFree(b); ok {
			return a, &api.Block{CIDR: b, Node: node}, nil
		}
	}
	a, err := s.Single()
	return a, nil, err
}

// Single gives the highest free address outside all blocks.
func (s *Subnet) Single() (netip.Addr, error) {
	base := number(s.CIDR.Addr())
	for off := size(s.CIDR); off > 0; off-- {
		a := address(base + off - 1)
		if s.free(a) && !s.lent(a) {
			return a, nil
		}
	}
	return netip.Addr{}, api.Errorf(api.CodeNoFreeAddresses, "subnetId",
		"delete network interfaces that are not needed, or use another subnet", "the subnet %s has no free address", s.CIDR)
}

// Check tells whether a chosen address may be given. It may lie in a block: whoever holds that skips it.
func (s *Subnet) Check(a netip.Addr) error {
	switch {
	case !a.Is4() || !s.CIDR.Contains(a):
		return api.Errorf(api.CodeAddressInvalid, "address", "choose one of the subnet's", "%s is not in the subnet %s", a, s.CIDR)
	case Reserved(s.CIDR, a):
		return api.Errorf(api.CodeAddressInvalid, "address", "the first four and the last address of a subnet are reserved",
			"%s is reserved in the subnet %s", a, s.CIDR)
	case s.Used[a]:
		return api.Errorf(api.CodeAddressInUse, "address", "choose another one, or none to get a free one", "%s is in use", a)
	}
	return nil
}

// Take marks an address, and a block if one came with it, as given.
func (s *Subnet) Take(a netip.Addr, b *api.Block) {
	s.Used[a] = true
	if b != nil {
		s.Blocks = append(slices.Clip(s.Blocks), *b)
		slices.SortFunc(s.Blocks, func(x, y api.Block) int { return x.CIDR.Addr().Compare(y.CIDR.Addr()) })
	}
}

func (s *Subnet) free(a netip.Addr) bool { return !s.Used[a] && !Reserved(s.CIDR, a) }

func (s *Subnet) lent(a netip.Addr) bool {
	return slices.ContainsFunc(s.Blocks, func(b api.Block) bool { return b.CIDR.Contains(a) })
}

func (s *Subnet) lowestFree(p netip.Prefix) (netip.Addr, bool) {
	base := number(p.Addr())
	for off := range size(p) {
		if a := address(base + off); s.free(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// freeBlock finds the lowest block in which nothing is taken; the topmost is never lent.
func (s *Subnet) freeBlock() (netip.Prefix, bool) {
	const step = 1 << (32 - api.BlockBits)
	base, end := number(s.CIDR.Addr()), number(s.CIDR.Addr())+size(s.CIDR)
	for at := base; at+step < end; at += step {
		p := netip.PrefixFrom(address(at), api.BlockBits)
		if !slices.ContainsFunc(s.Blocks, func(b api.Block) bool { return b.CIDR.Overlaps(p) }) && !s.anyUsed(p) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func (s *Subnet) anyUsed(p netip.Prefix) bool {
	base := number(p.Addr())
	for off := range size(p) {
		if s.Used[address(base+off)] {
			return true
		}
	}
	return false
}

// Busy returns the blocks worth keeping: those in which their node hosts an address. hosts tells the node of an address.
func Busy(blocks []api.Block, hosts map[netip.Addr]string) (kept []api.Block) {
	for _, b := range blocks {
		for a, node := range hosts {
			if node == b.Node && b.CIDR.Contains(a) {
				kept = append(kept, b)
				break
			}
		}
	}
	return kept
}

// NextTag gives the tag number after last that is not used, going round: so a number rests as long as possible before it
// is given again.
func NextTag(used map[uint16]bool, last uint16) (uint16, error) {
	for i := range uint32(api.MaxTagNumber) {
		n := uint16((uint32(last)+i)%api.MaxTagNumber) + 1
		if !used[n] {
			return n, nil
		}
	}
	return 0, api.Errorf(api.CodeOutOfNumbers, "", "delete endpoints or listeners, or use a second VPC",
		"the consumer's VPC has no free connection number of %d", api.MaxTagNumber)
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func address(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// size counts a prefix's addresses; prefixes here are /16 or longer.
func size(p netip.Prefix) uint32 { return 1 << (32 - p.Bits()) }
