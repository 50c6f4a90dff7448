package view

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// What all want is given where it fits, and else divided evenly to the last: each has what it wants or an even part at least.
func TestEvenShare(t *testing.T) {
	short := 0
	rapid.Check(t, func(t *rapid.T) {
		wants := map[string]int{}
		for i, want := range rapid.SliceOfN(rapid.IntRange(0, 100), 0, 12).Draw(t, "wants") {
			wants[fmt.Sprint(i)] = want
		}
		most, budget := rapid.IntRange(1, 100).Draw(t, "most"), rapid.IntRange(0, 500).Draw(t, "budget")
		share := evenShare(wants, most, budget)
		all, given := 0, 0
		for _, want := range wants {
			all, given = all+min(want, most), given+min(want, share)
			if share < min(want, most, budget/len(wants)) {
				t.Fatalf("%v of %d for each: %d is less than an even part", wants, budget, share)
			}
		}
		switch {
		case share > most, given > budget:
			t.Fatalf("%v of %d, %d at most: %d", wants, budget, most, share)
		case all <= budget && given != all:
			t.Fatalf("%v of %d, %d at most: %d, which leaves something out", wants, budget, most, share)
		case all > budget:
			short++
			if budget-given >= len(wants) {
				t.Fatalf("%v of %d, %d at most: %d, which leaves %d unused", wants, budget, most, share, budget-given)
			}
		}
	})
	if short == 0 {
		t.Error("the budget was never too small")
	}
}
