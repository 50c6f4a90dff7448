package bpf

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf/internal/frame"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// fragments are those of a datagram that the cart sends to the shelf.
func fragments(from string) []frame.Packet {
	whole := frame.UDP(from, shelf+":80").Payload(2000)
	whole.DF = false
	var all []frame.Packet
	for _, b := range plantest.Fragments(whole.IPv4(), 800, 4711) {
		all = append(all, whole.Break(func(ip []byte) { copy(ip, b) }).Cut(len(b)))
	}
	return all
}

// bootNS is the kernel's clock that programs read.
func bootNS(t *testing.T) uint64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	return uint64(now.Nano())
}

// What a first fragment said counts for as long as a receiver waits for the rest, and for its own key only.
func TestFragmentsAreForgotten(t *testing.T) {
	a, _ := pair(t)
	pieces := fragments(cart + ":40000")
	a.workload(consumer, cart, sent(pieces[0], 11)).refused(t, ReasonForwarded)
	var key FragmentKey
	var f Fragment
	if it := a.coll.Maps["fragments"].Iterate(); !it.Next(&key, &f) {
		t.Fatal("nothing is remembered: ", it.Err())
	}
	for age, reason := range map[time.Duration]Reason{
		29 * time.Second: ReasonForwarded, 31 * time.Second: ReasonFragment,
	} {
		f.SinceNs = bootNS(t) - uint64(age)
		a.put("fragments", key, &f)
		a.workload(consumer, cart, sent(pieces[1], 11)).refused(t, reason)
	}
	f.SinceNs = bootNS(t)
	f.Key.Tag++ // a recycled element
	a.put("fragments", key, &f)
	a.workload(consumer, cart, sent(pieces[1], 11)).refused(t, ReasonFragment)
}

// Where there is no room to remember a datagram, it is refused from its first fragment on; whole ones pass.
func TestNoRoomForFragments(t *testing.T) {
	tests := map[string]func(*ebpf.CollectionSpec){
		"sources":   func(s *ebpf.CollectionSpec) { s.Maps["fragment_rings"].MaxEntries = 1 },
		"datagrams": func(s *ebpf.CollectionSpec) { s.Maps["fragments"].MaxEntries = 1 },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			a := newNode(t, 1, change)
			a.eni(consumer, "10.0.1.7", 13)
			a.eni(consumer, cart, 11)
			a.address(consumer, shelf, AddressWorkload, 12)
			a.workload(consumer, cart, sent(fragments(cart + ":40000")[0], 11)).refused(t, ReasonForwarded)
			other := fragments("10.0.1.7:40000")
			a.workload(consumer, "10.0.1.7", sent(other[0], 13)).refused(t, ReasonFragment)
			a.workload(consumer, "10.0.1.7", sent(other[1], 13)).refused(t, ReasonFragment)
			whole := frame.UDP("10.0.1.7:40000", shelf+":80")
			a.workload(consumer, "10.0.1.7", sent(whole, 13)).refused(t, ReasonForwarded)
			a.workload(consumer, cart, sent(fragments(cart + ":40000")[1], 11)).refused(t, ReasonForwarded)
		})
	}
}

const (
	neighbour       = 3           // another consumer's VPC
	datagrams       = number + 11 // the number of the UDP listener
	neighboursShare = 64          // of the source ports that are kept
)

// shared is a provider's node whose target two consumers send datagrams to.
func shared(t *testing.T, change ...func(*ebpf.CollectionSpec)) *node {
	t.Helper()
	b := newNode(t, 2, change...)
	b.eni(provider, ledger, 21)
	b.grant()
	b.put("grants", GrantKey{Vpc: neighbour, Tag: uint32(datagrams)}, &Grant{
		Connection: 901, ProviderVpc: provider, Admitted: allowAll, LbRules: allowAll, LbEgressRules: allowAll,
		DialedAddr: NetAddr(ip(endpoint)), DialedPort: NetPort(443), Protocol: 17,
	})
	b.put("grant_targets", GrantTargetKey{Vpc: neighbour, Tag: uint32(datagrams), Addr: NetAddr(ip(ledger)), Port: NetPort(8443)},
		&GrantTarget{Source: NetAddr(ip(balancer)), SourceEni: 31, Ports: neighboursShare})
	b.quota(QuotaKey{Kind: uint32(QuotaReceived), Id: 901}, bounds(1<<20))
	return b
}

// One consumer floods fragments: another's pass, as many as it is promised, and so again in each second. What is refused
// costs nothing.
func TestFloodOfFragments(t *testing.T) {
	b := shared(t, func(spec *ebpf.CollectionSpec) {
		if err := spec.Variables[ABIVarRateClockStands].Set(uint32(1)); err != nil {
			t.Fatal(err)
		}
	})
	id := uint16(0)
	first := func(vpc uint32) Reason {
		id++
		piece := plantest.Fragments(frame.UDP(cart+":40000", ledger+":8443").Payload(2000).IPv4(), 800, uint32(id))[0]
		overlay := plantest.Overlay(piece, plantest.InMesh(mesh, vpc, ip(cart), datagrams), plantest.InMesh(mesh, provider, ip(ledger), 0))
		return Reason(b.run("from_tunnel", slices.Concat(make([]byte, 12), []byte{0x86, 0xdd}, overlay)).outcome.Reason)
	}
	until := func(vpc uint32, most int) (passed int) {
		t.Helper()
		for ; passed < most; passed++ {
			switch r := first(vpc); r {
			case ReasonForwarded:
			case ReasonFragment:
				return passed
			default:
				t.Fatal(r)
			}
		}
		return passed
	}
	part := KeptIDs * neighboursShare / ((plan.PortOpen - plan.PortSpare) / 2) // a second
	if got := until(consumer, 10_000); got < IDsBurst*OpenIDs || got > IDsBurst*(OpenIDs+KeptIDs) {
		t.Errorf("the flood got %d ids at once, want %d, open to all, and its part", got, IDsBurst*OpenIDs)
	}
	if got := until(neighbour, 100); got < IDsBurst*part || got > IDsBurst*(part+1) {
		t.Errorf("beside the flood %d datagrams pass at once, want %d", got, IDsBurst*part)
	}
	for second := range uint64(5) {
		if err := b.coll.Variables[ABIVarRateClockNs].Set((second + 1) * 1_000_000_000); err != nil {
			t.Fatal(err)
		}
		if got := until(consumer, 10_000); got < OpenIDs || got > OpenIDs+KeptIDs {
			t.Errorf("the flood got %d ids in a second, want %d and its part", got, OpenIDs)
		}
		if got := until(neighbour, 100); got < part || got > part+1 {
			t.Errorf("beside the flood %d datagrams pass in a second, want %d", got, part)
		}
	}
}

// An account that sends fragments from everywhere leaves room for those of others.
func TestFloodOfFragmentSources(t *testing.T) {
	n := newNode(t, 1, func(s *ebpf.CollectionSpec) { s.Maps["fragment_rings"].MaxEntries = 64 })
	n.address(consumer, shelf, AddressWorkload, 12)
	piece := func(account, host int) Reason {
		number := uint32(1000 + 256*account + host)
		from := netip.AddrFrom4([4]byte{10, 0, byte(10 + account), byte(host)}).String()
		n.quota(QuotaKey{Kind: uint32(QuotaAccount), Id: uint32(account)}, bounds(1<<20))
		n.eni(consumer, from, number)
		n.changeENI(consumer, from, func(e *ENI) { e.Account = uint32(account) })
		return Reason(n.workload(consumer, from, sent(fragments(from + ":40000")[0], number)).outcome.Reason)
	}
	sources := func(account, most int) (got int) {
		for ; got < most && piece(account, got+1) == ReasonForwarded; got++ {
			continue
		}
		return got
	}
	for i, want := range []int{32, 16, 2, 2} { // half of 64; up to three quarters; a 32nd each
		if got := sources(7+i, 60); got != want {
			t.Errorf("account %d has fragments of %d sources, want %d", i, got, want)
		}
	}
	if got := piece(7, 1); got != ReasonForwarded {
		t.Errorf("a source that has its room: %s", got)
	}
}

// Two consumers with equal address, port and id behind one load balancer: the target gets two ids. No id is given again
// within the time in which a receiver may hold a part of the datagram that had it.
func TestFragmentIDsBehindOneAddress(t *testing.T) {
	b := shared(t)
	const other, tag = neighbour, datagrams
	whole := frame.UDP(cart+":40000", ledger+":8443").Payload(2000)
	pieces := plantest.Fragments(whole.IPv4(), 800, 4711)
	from := func(vpc uint32, n int) result {
		overlay := plantest.Overlay(pieces[n], plantest.InMesh(mesh, vpc, ip(cart), tag), plantest.InMesh(mesh, provider, ip(ledger), 0))
		return b.run("from_tunnel", slices.Concat(make([]byte, 12), []byte{0x86, 0xdd}, overlay))
	}
	var ids [2]uint16
	for n := range pieces {
		for i, vpc := range []uint32{consumer, other} {
			r := from(vpc, n)
			r.refused(t, ReasonForwarded)
			id := binary.BigEndian.Uint16(r.frame[18:])
			if n == 0 {
				ids[i] = id
			}
			if id != ids[i] {
				t.Fatalf("fragment %d of VPC %d has id %d, its first one %d", n, vpc, id, ids[i])
			}
		}
	}
	if ids[0] == ids[1] {
		t.Errorf("both datagrams have id %d", ids[0])
	}
	key := FragmentPair{Vpc: provider, Saddr: NetAddr(ip(balancer)), Daddr: NetAddr(ip(ledger))}
	now := bootNS(t)
	row := FragmentIDs{Next: 15 * 4096, LastNs: now} // the next block is the last; the first one was begun over 30 s ago
	for i := range row.BeganNs {
		row.BeganNs[i] = now - uint64(31*time.Second) + uint64(i)*uint64(time.Second)
	}
	b.put("fragment_pairs", key, &row)
	from(consumer, 0).refused(t, ReasonForwarded)
	row.Next, row.BeganNs[1] = 16*4096, now-uint64(29*time.Second) // the first again, whose last id was given 29 s ago
	b.put("fragment_pairs", key, &row)
	from(consumer, 0).refused(t, ReasonFragment)
	from(other, 0).refused(t, ReasonFragment)
	row.BeganNs[1] = now - uint64(31*time.Second)
	b.put("fragment_pairs", key, &row)
	r := from(consumer, 0)
	r.refused(t, ReasonForwarded)
	if id := binary.BigEndian.Uint16(r.frame[18:]); id != 0 {
		t.Errorf("id %d, want the first of its block", id)
	}
}
