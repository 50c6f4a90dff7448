package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// TableTarget is one target of a table. Weight 0: it keeps its flows and gets no new ones.
type TableTarget struct {
	netip.AddrPort
	Weight uint16 // 0..api.MaxTargetWeight
}

// String is the target's line in a table's text.
func (t TableTarget) String() string { return t.AddrPort.String() + " " + strconv.Itoa(int(t.Weight)) }

// tableWidths are the bits that a slot may take; they divide a word.
var tableWidths = [...]uint8{1, 2, 4, 8, 16}

// tableWidth is how many bits a slot needs to name one of the targets; 0 when none of them takes new flows.
func tableWidth(targets []TableTarget) uint8 {
	if !slices.ContainsFunc(targets, func(t TableTarget) bool { return t.Weight > 0 }) {
		return 0
	}
	for _, width := range tableWidths {
		if len(targets) <= 1<<width {
			return width
		}
	}
	return 0
}

// Targets reads the table's text back, in its order.
func (t TargetTable) Targets() ([]TableTarget, error) {
	var targets []TableTarget
	for line := range strings.Lines(t.Text) {
		target, err := parseTableTarget(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("target table %d: %w", t.ID, err)
		}
		if len(targets) > 0 && targets[len(targets)-1].Compare(target.AddrPort) >= 0 {
			return nil, fmt.Errorf("target table %d: %s stands twice, or out of order", t.ID, target.AddrPort)
		}
		targets = append(targets, target)
	}
	if len(targets) > MaxTargets {
		return nil, fmt.Errorf("target table %d: %d targets, at most %d fit", t.ID, len(targets), MaxTargets)
	}
	return targets, nil
}

func parseTableTarget(line string) (TableTarget, error) {
	name, weight, _ := strings.Cut(line, " ")
	target, err := netip.ParseAddrPort(name)
	n, err2 := strconv.ParseUint(weight, 10, 16)
	if err != nil || err2 != nil || !target.Addr().Is4() || target.Port() == 0 || n > api.MaxTargetWeight {
		return TableTarget{}, fmt.Errorf("%q is not ADDRESS:PORT WEIGHT", line)
	}
	return TableTarget{target, uint16(n)}, nil
}

// Slots are the table's targets and, for each of TableSlots slots, which of them has it. Equal text gives equal slots on
// every node. No slots when no target takes new flows.
func (t TargetTable) Slots() (targets []TableTarget, slots []uint16, err error) {
	targets, err = t.Targets()
	if err != nil {
		return nil, nil, err
	}
	if want := tableWidth(targets); t.Width != want {
		return nil, nil, fmt.Errorf("target table %d: width %d for %d targets, want %d", t.ID, t.Width, len(targets), want)
	}
	return targets, spread(targets), nil
}

// mix32 spreads every input bit over the word (the finalizer of MurmurHash3).
func mix32(h uint32) uint32 {
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}
