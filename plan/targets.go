package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// tableSizes are primes. A table has at least 100 slots a target, so that no share is off by more than about 1 %.
var tableSizes = [...]uint32{251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65537}

// TableSize is the size of a table for so many targets; 0 for none or more than MaxTargets.
func TableSize(targets int) uint32 {
	if targets == 0 {
		return 0
	}
	for _, size := range tableSizes {
		if int(size) >= 100*targets {
			return size
		}
	}
	return 0
}

// TableTarget is one target of a table. Weight 0: it keeps its flows and gets no new ones.
type TableTarget struct {
	netip.AddrPort
	Weight uint16 // 0..api.MaxTargetWeight
}

// Targets reads the table's text back, in its order.
func (t TargetTable) Targets() ([]netip.AddrPort, error) {
	var targets []netip.AddrPort
	for line := range strings.Lines(t.Text) {
		target, err := netip.ParseAddrPort(strings.TrimSuffix(line, "\n"))
		if err != nil || !target.Addr().Is4() || target.Port() == 0 {
			return nil, fmt.Errorf("target table %d: %q is not ADDRESS:PORT", t.ID, strings.TrimSpace(line))
		}
		targets = append(targets, target)
	}
	return targets, nil
}

// Slots fills the table as Maglev does (Eisenbud et al., NSDI 2016, section 3.4): each target walks its own permutation
// of the slots and they take free ones in turn. Equal text gives equal slots on every node. Nil without targets.
func (t TargetTable) Slots() ([]netip.AddrPort, error) {
	targets, err := t.Targets()
	if err != nil || len(targets) == 0 {
		return nil, err
	}
	if int(t.Size) < len(targets) || t.Size < 2 {
		return nil, fmt.Errorf("target table %d: size %d for %d targets", t.ID, t.Size, len(targets))
	}
	size := uint64(t.Size)
	offset, skip := make([]uint64, len(targets)), make([]uint64, len(targets))
	for i, target := range targets {
		name := target.String()
		offset[i] = uint64(mix32(textHash(name))) % size
		skip[i] = uint64(mix32(textHash("skip "+name)))%(size-1) + 1
	}
	slots := make([]netip.AddrPort, size)
	next := make([]uint64, len(targets))
	for filled := uint64(0); filled < size; {
		for i, target := range targets {
			slot := (offset[i] + next[i]*skip[i]) % size
			for slots[slot].IsValid() {
				next[i]++
				slot = (offset[i] + next[i]*skip[i]) % size
			}
			slots[slot] = target
			next[i]++
			if filled++; filled == size {
				break
			}
		}
	}
	return slots, nil
}

// mix32 spreads every input bit over the word (the finalizer of MurmurHash3).
func mix32(h uint32) uint32 {
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}

// firstLines are the first n lines of a text that has more.
func firstLines(text string, n int) string {
	end := 0
	for range n {
		end += strings.IndexByte(text[end:], '\n') + 1
	}
	return text[:end]
}

// tableText is the canonical text of a set of targets; an error names the one that stands twice.
func tableText(targets []netip.AddrPort) (string, error) {
	targets = slices.Clone(targets)
	slices.SortFunc(targets, netip.AddrPort.Compare)
	var text strings.Builder
	for i, t := range targets {
		if i > 0 && targets[i-1] == t {
			return "", fmt.Errorf("target %s stands twice", t)
		}
		text.WriteString(t.String())
		text.WriteByte('\n')
	}
	return text.String(), nil
}
