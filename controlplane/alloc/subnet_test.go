package alloc

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
)

// world is a subnet with what a control plane would know about it.
type world struct {
	s     Subnet
	hosts map[netip.Addr]string
}

func (w *world) take(t *rapid.T, a netip.Addr, b *api.Block, node string) {
	if w.hosts[a] != "" {
		t.Fatalf("%s given twice", a)
	}
	if b != nil && (b.Node != node || !b.CIDR.Contains(a)) {
		t.Fatalf("block %v does not serve %s on %s", b, a, node)
	}
	w.s.Take(a, b)
	w.hosts[a] = node
}

func (w *world) check(t *rapid.T) {
	base := number(w.s.CIDR.Addr())
	for a := range w.hosts {
		off := number(a) - base
		if !w.s.CIDR.Contains(a) || off < 4 || off == size(w.s.CIDR)-1 {
			t.Fatalf("%s given in %s", a, w.s.CIDR)
		}
	}
	if len(w.s.Used) != len(w.hosts) {
		t.Fatalf("%d used, %d given", len(w.s.Used), len(w.hosts))
	}
	for i, b := range w.s.Blocks {
		if b.CIDR.Bits() != api.BlockBits || b.CIDR != b.CIDR.Masked() || !w.s.CIDR.Contains(b.CIDR.Addr()) {
			t.Fatalf("block %v in %s", b, w.s.CIDR)
		}
		if number(b.CIDR.Addr())+size(b.CIDR) == base+size(w.s.CIDR) {
			t.Fatalf("the topmost block was lent")
		}
		for _, c := range w.s.Blocks[i+1:] {
			if b.CIDR.Overlaps(c.CIDR) {
				t.Fatalf("blocks %v and %v overlap", b, c)
			}
		}
	}
}

func TestAddressesAreGivenOnceAndInTheRightPlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(24, 28).Draw(t, "bits")
		w := &world{hosts: map[netip.Addr]string{}, s: Subnet{
			CIDR: netip.PrefixFrom(netip.MustParseAddr("10.7.0.0"), bits), Used: map[netip.Addr]bool{}}}
		nodes := rapid.SampledFrom([]string{"a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"": w.check,
			"node": func(t *rapid.T) {
				node := nodes.Draw(t, "node")
				a, b, err := w.s.ForNode(node)
				if err != nil {
					w.full(t, node, err)
					return
				}
				w.take(t, a, b, node)
				if i := slices.IndexFunc(w.s.Blocks, func(b api.Block) bool { return b.CIDR.Contains(a) }); i >= 0 &&
					w.s.Blocks[i].Node != node {
					t.Fatalf("%s for %s lies in %v", a, node, w.s.Blocks[i])
				}
			},
			"single": func(t *rapid.T) {
				a, err := w.s.Single()
				if err != nil {
					w.full(t, "", err)
					return
				}
				if w.s.lent(a) {
					t.Fatalf("single %s lies in a block", a)
				}
				w.take(t, a, nil, "single")
			},
			"chosen": func(t *rapid.T) {
				a := address(number(w.s.CIDR.Addr()) + uint32(rapid.IntRange(0, 270).Draw(t, "off")))
				if err := w.s.Check(a); err == nil {
					w.take(t, a, nil, nodes.Draw(t, "node"))
				} else if w.s.CIDR.Contains(a) && !Reserved(w.s.CIDR, a) && w.hosts[a] == "" {
					t.Fatalf("%s refused: %v", a, err)
				}
			},
			"free": func(t *rapid.T) {
				if len(w.hosts) == 0 {
					return // nothing to free
				}
				order := func(x, y netip.Addr) int { return x.Compare(y) }
				a := rapid.SampledFrom(slices.SortedFunc(maps.Keys(w.hosts), order)).Draw(t, "address")
				delete(w.hosts, a)
				delete(w.s.Used, a)
				w.s.Blocks = Busy(w.s.Blocks, w.hosts)
				for _, b := range w.s.Blocks {
					if !slices.ContainsFunc(slices.Collect(maps.Keys(w.hosts)), func(a netip.Addr) bool {
						return b.CIDR.Contains(a) && w.hosts[a] == b.Node
					}) {
						t.Fatalf("idle block %v kept", b)
					}
				}
			},
		})
	})
}

// full demands that a refusal is true: every address is taken, reserved, or in another's block.
func (w *world) full(t *rapid.T, node string, err error) {
	if !errors.Is(err, &api.Error{Code: api.CodeNoFreeAddresses}) {
		t.Fatal(err)
	}
	base := number(w.s.CIDR.Addr())
	for off := range size(w.s.CIDR) {
		a := address(base + off)
		own := slices.ContainsFunc(w.s.Blocks, func(b api.Block) bool { return b.CIDR.Contains(a) && b.Node == node })
		if w.s.free(a) && (!w.s.lent(a) || own) {
			t.Fatalf("refused although %s is free", a)
		}
	}
}

func TestNextTag(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		used := map[uint16]bool{}
		for _, n := range rapid.SliceOf(rapid.Uint16Range(1, api.MaxTagNumber)).Draw(t, "used") {
			used[n] = true
		}
		last := rapid.Uint16Range(0, api.MaxTagNumber).Draw(t, "last")
		n, err := NextTag(used, last)
		if err != nil || n == 0 || n > api.MaxTagNumber || used[n] {
			t.Fatalf("NextTag(%v, %d) = %d, %v", used, last, n, err)
		}
		for m := last%api.MaxTagNumber + 1; m != n; m = m%api.MaxTagNumber + 1 {
			if !used[m] {
				t.Fatalf("%d was free before %d", m, n)
			}
		}
	})
	all := map[uint16]bool{}
	for n := range uint16(api.MaxTagNumber) {
		all[n+1] = true
	}
	if n, err := NextTag(all, 5); !errors.Is(err, &api.Error{Code: api.CodeOutOfNumbers}) {
		t.Errorf("full: %d, %v", n, err)
	}
	delete(all, 5)
	if n, err := NextTag(all, 5); n != 5 || err != nil {
		t.Errorf("one left: %d, %v", n, err)
	}
}

func TestPlaces(t *testing.T) {
	s := Subnet{CIDR: netip.MustParsePrefix("10.0.1.0/24"), Used: map[netip.Addr]bool{}}
	var got []string
	give := func(node string) {
		a, b, err := s.ForNode(node)
		if node == "" {
			a, err = s.Single()
			b = nil
		}
		if err != nil {
			t.Fatal(err)
		}
		s.Take(a, b)
		got = append(got, fmt.Sprint(a, b != nil))
	}
	for _, n := range []string{"a", "a", "b", "", "b", "", "a"} {
		give(n)
	}
	want := []string{"10.0.1.4 true", "10.0.1.5 false", "10.0.1.16 true", "10.0.1.254 false", "10.0.1.17 false",
		"10.0.1.253 false", "10.0.1.6 false"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if Router(s.CIDR).String() != "10.0.1.1" || Resolver(s.CIDR).String() != "10.0.1.2" {
		t.Error("router or resolver")
	}
}
