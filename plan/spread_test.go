package plan

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
)

// The property tests draw whole tables, each some 10 ms of work.
const spreadChecks = 25

func drawTargets(rt *rapid.T, most int, weight *rapid.Generator[uint16]) []TableTarget {
	n := rapid.OneOf(rapid.IntRange(1, 8), rapid.IntRange(9, most)).Draw(rt, "targets")
	base := rapid.Uint32().Draw(rt, "base")
	var targets []TableTarget
	for i := range uint32(n) {
		a := api.Overlay{Host: base + i*rapid.SampledFrom([]uint32{1, 1, 7, 256}).Draw(rt, "apart")}.HostAddr()
		targets = append(targets, TableTarget{netip.AddrPortFrom(a, uint16(1+i)), weight.Draw(rt, "weight")})
	}
	slices.SortFunc(targets, func(a, b TableTarget) int { return a.Compare(b.AddrPort) })
	return targets
}

func even() *rapid.Generator[uint16] { return rapid.Just[uint16](api.DefaultTargetWeight) }

func few(t *testing.T, check func(*rapid.T)) {
	t.Helper()
	left := spreadChecks
	rapid.Check(t, func(rt *rapid.T) {
		if left--; left < 0 {
			return
		}
		check(rt)
	})
}

// checkShares demands that every slot be one of a target that takes new flows, and each of those have its share: with equal
// weights to the slot, else to two of them and the one that everybody has at least.
func checkShares(t rapid.TB, targets []TableTarget, slots []uint16) (least, most float64) {
	weights, takers := 0, 0
	for _, x := range targets {
		weights += int(x.Weight)
		if x.Weight > 0 {
			takers++
		}
	}
	if want := min(takers, 1) * TableSlots; len(slots) != want {
		t.Fatalf("%d slots, want %d", len(slots), want)
	}
	have := make([]int, len(targets))
	for _, s := range slots {
		have[s]++
	}
	least = float64(TableSlots)
	for i, x := range targets {
		if x.Weight == 0 {
			if have[i] != 0 {
				t.Fatalf("%s has %d slots", x, have[i])
			}
			continue
		}
		share := float64(TableSlots-takers)*float64(x.Weight)/float64(weights) + 1
		if off := float64(have[i]) - share; off <= -1 || off >= 1 {
			t.Fatalf("%s has %d slots, its share is %.2f", x, have[i], share)
		}
		least, most = min(least, float64(have[i])/share), max(most, float64(have[i])/share)
	}
	return least, most
}

func TestSlotsAreEven(t *testing.T) {
	least, most := 1.0, 1.0
	few(t, func(rt *rapid.T) {
		targets := drawTargets(rt, api.MaxTargetsPerGroup, rapid.Uint16Range(0, api.MaxTargetWeight))
		l, m := checkShares(rt, targets, spread(targets))
		if slices.ContainsFunc(targets, func(x TableTarget) bool { return x.Weight > 0 }) {
			least, most = min(least, l), max(most, m)
		}
	})
	t.Logf("any weights: of its share a target has between %.3f and %.3f", least, most)
	least, most = 1.0, 1.0
	few(t, func(rt *rapid.T) {
		targets := drawTargets(rt, api.MaxTargetsPerGroup, even())
		l, m := checkShares(rt, targets, spread(targets))
		least, most = min(least, l), max(most, m)
	})
	t.Logf("equal weights: of its share a target has between %.3f and %.3f", least, most)
}

// moves are the slots that went from one target to another though both were there before and after.
func moves(before, after []TableTarget) (needless int) {
	was, is := spread(before), spread(after)
	there := map[netip.AddrPort]int{}
	for _, list := range [][]TableTarget{before, after} {
		for _, x := range list {
			there[x.AddrPort]++
		}
	}
	for i := range was {
		a, b := before[was[i]].AddrPort, after[is[i]].AddrPort
		if a != b && there[a] == 2 && there[b] == 2 {
			needless++
		}
	}
	return needless
}

// When one of up to 1,000 targets of equal weight leaves, at most 0.6 % of the slots go from one to another of those that
// stay; the same when it joins, which is the same two tables.
func TestFewNeedlessMoves(t *testing.T) {
	worst, sum, n := 0, 0, 0
	few(t, func(rt *rapid.T) {
		before := drawTargets(rt, api.MaxTargetsPerGroup, even())
		if len(before) == 1 {
			return
		}
		i := rapid.IntRange(0, len(before)-1).Draw(rt, "leaves")
		got := moves(before, slices.Delete(slices.Clone(before), i, i+1))
		if got*1000 > TableSlots*6 {
			rt.Fatalf("%d targets: %d of %d slots moved needlessly when %s left", len(before), got, TableSlots, before[i])
		}
		worst, sum, n = max(worst, got), sum+got, n+1
	})
	t.Logf("one of equals leaves: %.3f %% needless moves in the mean, %.3f %% at most", percent(sum)/float64(n), percent(worst))
}

// net is how many slots more a target had before than it has after.
func net(before, after []TableTarget, i int) (lost int) {
	for _, s := range spread(before) {
		if int(s) == i {
			lost++
		}
	}
	for _, s := range spread(after) {
		if after[s].AddrPort == before[i].AddrPort {
			lost--
		}
	}
	return lost
}

// When the weight of one of many targets of any weights is lowered, also to 0, what it loses moves and at most 1 % of the slots
// besides: chains of moves are longer than between equals, 0.71 % at most in 4,500 draws of 2 to 1,000 targets.
func TestFewNeedlessMovesWithWeights(t *testing.T) {
	worst := 0.0
	few(t, func(rt *rapid.T) {
		before := drawTargets(rt, api.MaxTargetsPerGroup, rapid.OneOf(rapid.Uint16Range(1, api.MaxTargetWeight), rapid.Uint16Range(1, 10)))
		if len(before) == 1 {
			return
		}
		i := rapid.IntRange(0, len(before)-1).Draw(rt, "changes")
		after := slices.Clone(before)
		after[i].Weight = rapid.Uint16Range(0, after[i].Weight).Draw(rt, "to")
		got := percent(moves(before, after) - net(before, after, i))
		worst = max(worst, got)
		if got > 1 {
			rt.Fatalf("%d targets: %.3f %% moved needlessly when %s got weight %d", len(before), got, before[i], after[i].Weight)
		}
	})
	t.Logf("a weight is lowered: %.3f %% needless moves at most", worst)
}

func percent(slots int) float64 { return float64(slots) * 100 / TableSlots }

// The assignment is the one in which no slot and target would rather have each other.
func TestSlotsAreStable(t *testing.T) {
	few(t, func(rt *rapid.T) {
		targets := drawTargets(rt, 60, rapid.Uint16Range(1, api.MaxTargetWeight))
		s := newSpreader(targets)
		slots := spread(targets)
		worst := make([]uint64, len(targets))
		for slot, x := range slots {
			worst[x] = max(worst[x], s.scoreOf(&s.bidders[x], uint32(slot)))
		}
		for slot, x := range slots {
			own := s.scoreOf(&s.bidders[x], uint32(slot))
			for i := range targets {
				if score := s.scoreOf(&s.bidders[i], uint32(slot)); score < own && score < worst[i] {
					rt.Fatalf("slot %d is of %s, %s and it would rather have each other", slot, targets[x], targets[i])
				}
			}
		}
	})
}

// A bidder's order of the slots is a permutation, and its two directions agree.
func TestOrderOfSlots(t *testing.T) {
	s := newSpreader([]TableTarget{{netip.MustParseAddrPort("10.0.1.5:443"), 1}})
	b := &s.bidders[0]
	seen := make([]bool, TableSlots)
	for n := range uint64(TableSlots) {
		slot := s.slot(b, n)
		if seen[slot] || s.scoreOf(b, slot) != s.t.cost[n]*b.factor {
			t.Fatalf("position %d is slot %d: seen %t", n, slot, seen[slot])
		}
		seen[slot] = true
	}
}

// Every node computes the same slots, whatever its processor: the sum stands here.
func TestSlotsAreTheSameEverywhere(t *testing.T) {
	for n, want := range map[int]string{
		3: "168cb0d84bf7138f", 1000: "725da0d1ff20204c",
	} {
		var targets []TableTarget
		for i := range n {
			a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			targets = append(targets, TableTarget{netip.AddrPortFrom(a, 8443), uint16(1 + i%5*100)})
		}
		sum := sha256.New()
		for _, s := range spread(targets) {
			sum.Write(binary.BigEndian.AppendUint16(nil, s))
		}
		if got := hex.EncodeToString(sum.Sum(nil)[:8]); got != want {
			t.Errorf("%d targets: %s, want %s", n, got, want)
		}
	}
}

func TestTablesThatAreNone(t *testing.T) {
	for _, bad := range []TargetTable{
		{Width: 1, Text: "x\n"}, {Width: 1, Text: "10.0.0.1:0 1\n"}, {Width: 1, Text: "10.0.0.1:1\n"}, {Width: 1, Text: "[::1]:1 1\n"},
		{Width: 1, Text: "10.0.0.1:1 1000\n"}, {Width: 2, Text: "10.0.0.1:1 1\n"}, {Width: 1, Text: "10.0.0.1:1 0\n"},
		{Width: 1, Text: "10.0.0.1:1 1\n10.0.0.1:1 2\n"}, {Width: 1, Text: "10.0.0.2:1 1\n10.0.0.1:1 1\n"},
	} {
		if _, slots, err := bad.Slots(); err == nil {
			t.Errorf("table %+v has %d slots", bad, len(slots))
		}
	}
	for n, want := range map[int]uint8{0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 16: 4, 17: 8, 256: 8, 257: 16, MaxTargets: 16} {
		if got := tableWidth(slices.Repeat([]TableTarget{{Weight: 1}}, n)); got != want {
			t.Errorf("%d targets: width %d, want %d", n, got, want)
		}
	}
	text := ""
	for i := range MaxTargets + 1 {
		text += fmt.Sprintf("10.0.0.1:%d 0\n", i+1)
	}
	if _, err := (TargetTable{Text: text}).Targets(); err == nil {
		t.Errorf("a table of %d targets is read", MaxTargets+1)
	}
}
