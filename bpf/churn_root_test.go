package bpf

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/culvert-net/culvert/bpf/internal/frame"
)

const (
	churnFlows   = 12          // of two entries each
	churnEntries = 20          // of the table: it is full now and then
	churnStall   = 8000        // rounds between look-up and copy: some microseconds
	churnEnough  = 50          // copies that were refused
	churnOther   = 3           // a second consumer's VPC, with the first one's addresses
	churnTag     = number + 11 // of UDP
	churnWithin  = 5 * time.Minute
)

// churnVPC is that of a flow's consumer; every other one is of another account's.
func churnVPC(i int) uint32 { return []uint32{consumer, churnOther}[i%2] }

// churn is a provider's node whose table is small and full of what comes and goes.
type churn struct {
	*node
	frames [churnFlows][]byte
	sport  int // where a delivered packet has its source port
	// packets that were let through, and of these the ones that left as another flow's
	passed, foreign atomic.Uint64
	removed         atomic.Uint64
	stop            atomic.Bool
}

// newChurn loads the programs with a stall around the copy of an entry, and without what proves the copy, if that is named.
func newChurn(t *testing.T, without string) *churn {
	t.Helper()
	c := &churn{node: newNode(t, 2, func(s *ebpf.CollectionSpec) {
		s.Maps[ABIMapFlows].MaxEntries = churnEntries
		set := map[string]uint32{ABIVarCopyStall: churnStall}
		if without != "" {
			set[without] = 1
		}
		for name, value := range set {
			if err := s.Variables[name].Set(value); err != nil {
				t.Fatal(err)
			}
		}
	})}
	c.eni(provider, ledger, 21)
	c.grant()
	c.put("grants", GrantKey{Vpc: churnOther, Tag: churnTag}, &Grant{
		Connection: 901, ProviderVpc: provider, Admitted: allowAll, LbRules: allowAll, LbEgressRules: allowAll,
		DialedAddr: NetAddr(ip(endpoint)), DialedPort: NetPort(443), Protocol: 17, IdleS: 300,
	})
	c.put("grant_targets", GrantTargetKey{Vpc: churnOther, Tag: churnTag, Addr: NetAddr(ip(ledger)), Port: NetPort(8443)},
		&GrantTarget{Source: NetAddr(ip(balancer)), SourceEni: 31, Ports: 64})
	c.quota(QuotaKey{Kind: uint32(QuotaReceived), Id: 901}, bounds(1<<20))
	for i := range c.frames {
		from := netip.AddrPortFrom(ip(cart), c.port(i)).String()
		c.frames[i] = frame.UDP(from, ledger+":8443").Between(mesh, churnVPC(i), churnTag, provider, 0).Overlay()
	}
	c.sport = 14 + 20
	return c
}

// port is that of a flow's client, and the one that the target sees: it is nobody else's.
func (c *churn) port(i int) uint16 { return uint16(30000 + i) }

// send gives a packet of a random flow to the program and looks whose it is when it leaves.
func (c *churn) send(rng *rand.Rand, out []byte) error {
	i := rng.IntN(churnFlows)
	opts := &ebpf.RunOptions{Data: c.frames[i], DataOut: out}
	verdict, err := c.coll.Programs[ABIProgFromTunnel].Run(opts)
	if err != nil || verdict != actRedirect {
		return err
	}
	c.passed.Add(1)
	// A flow that is made anew while its old entry still holds the port has one that is no other's.
	port := binary.BigEndian.Uint16(opts.DataOut[c.sport:])
	if port != c.port(i) && c.port(0) <= port && port < c.port(churnFlows) {
		c.foreign.Add(1)
	}
	return nil
}

// removeOne takes a random flow out of the table as the agent's sweep does, in use or not.
func (c *churn) removeOne(rng *rand.Rand) error {
	i := rng.IntN(churnFlows)
	k := FlowKey{
		Vpc: churnVPC(i), Saddr: NetAddr(ip(cart)), Daddr: NetAddr(ip(ledger)), Sport: NetPort(c.port(i)), Dport: NetPort(8443),
		Tag: churnTag, View: uint8(ViewProvider), Protocol: 17,
	}
	var f Flow
	if c.coll.Maps[ABIMapFlows].Lookup(&k, &f) != nil || f.Key != k {
		return nil
	}
	mark := []FlowMark{{Key: k, Flag: uint32(FlowExpired), Id: f.Id, LastNs: ^uint64(0)}}
	if _, err := MarkFlows(c.coll.Programs[ABIProgMarkFlows], mark); err != nil {
		return err
	}
	removals := []FlowRemoval{{Key: k, Id: f.Id}, {Key: f.ReverseKey(), Id: f.Id}}
	if err := RemoveFlows(c.coll.Programs[ABIProgRemoveFlows], removals); err != nil {
		return err
	}
	c.removed.Add(uint64(removals[0].Removed))
	return nil
}

// work removes and sends by turns: the kernel gives to the next flow of a CPU what it got back there last.
func (c *churn) work(rng *rand.Rand) error {
	out := make([]byte, 512)
	for !c.stop.Load() {
		if err := c.removeOne(rng); err != nil {
			return err
		}
		for range 2 {
			if err := c.send(rng, out); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *churn) refused(t *testing.T) (n uint64) {
	t.Helper()
	if err := c.coll.Variables[ABIVarCopiesRefused].Get(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// run lets everything happen at once until there is what is waited for.
func (c *churn) run(t *testing.T, until func() bool) {
	t.Helper()
	var threads sync.WaitGroup
	for i := range 2 * runtime.NumCPU() {
		threads.Go(func() {
			if err := c.work(rand.New(rand.NewPCG(uint64(i), 0))); err != nil {
				t.Error(err)
			}
		})
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(churnWithin); !until() && time.Now().Before(end); {
		<-tick.C
	}
	c.stop.Store(true)
	threads.Wait()
	t.Logf("%d packets passed, %d of them as another flow's, %d flows were removed, %d copies refused",
		c.passed.Load(), c.foreign.Load(), c.removed.Load(), c.refused(t))
}

// A table of a few dozen entries, that are removed and recycled while packets use them on all CPUs: no packet leaves as
// another flow's. Without either half of what proves that a copied entry is the one asked for, some do.
func TestChurn(t *testing.T) {
	t.Run("proven", func(t *testing.T) {
		c := newChurn(t, "")
		c.run(t, func() bool { return c.refused(t) >= churnEnough })
		if c.refused(t) < churnEnough || c.passed.Load() == 0 {
			t.Error("hardly an entry was recycled under a packet: this shows nothing")
		}
		if n := c.foreign.Load(); n != 0 {
			t.Errorf("%d packets left as another flow's", n)
		}
	})
	for name, variable := range map[string]string{"without the key": ABIVarCopyAnyKey, "without a second look": ABIVarCopyOnce} {
		t.Run(name, func(t *testing.T) {
			c := newChurn(t, variable)
			c.run(t, func() bool { return c.foreign.Load() > 0 })
			if c.foreign.Load() == 0 {
				t.Error("no packet left as another flow's: the test cannot fail")
			}
		})
	}
}

// What the stall costs a load without it: nothing, the verifier takes the code out.
func TestStallIsTakenOut(t *testing.T) {
	stalls := func(n *node, name string) (found bool) {
		info, err := n.coll.Programs[ABIProgFromTunnel].Info()
		if err != nil {
			t.Fatal(err)
		}
		instructions, err := info.Instructions()
		if err != nil {
			t.Fatal(err)
		}
		for _, ins := range instructions {
			f := btf.FuncMetadata(&ins)
			found = found || f != nil && f.Name == name
		}
		return found
	}
	rowStall := func(s *ebpf.CollectionSpec) {
		if err := s.Variables[ABIVarRowStall].Set(uint32(1)); err != nil {
			t.Fatal(err)
		}
	}
	plain := newNode(t, 1)
	for name, with := range map[string]*node{"stall_copy": newChurn(t, "").node, "stall_row": newNode(t, 1, rowStall)} {
		if stalls(plain, name) {
			t.Errorf("a program without stall has the code of %s", name)
		}
		if !stalls(with, name) {
			t.Errorf("a program with stall does not have the code of %s: this test sees nothing", name)
		}
	}
}
