package view

import (
	"maps"
	"slices"
)

// evenShare is the most that each account may have, so that all together have the budget at most: with room enough what one of them may have
// anywhere.
func evenShare(wanted map[string]int, most, budget int) int {
	left := len(wanted)
	for _, n := range slices.Sorted(maps.Values(wanted)) {
		if n = min(n, most); n > budget/left {
			return budget / left
		}
		budget -= n
		left--
	}
	return most
}
