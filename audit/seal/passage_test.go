package seal

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What a seal says of the tunnel is what was signed, in one form, and nothing that contradicts itself.
func TestPassages(t *testing.T) {
	s := sample(t)
	line, err := s.Line()
	if err != nil {
		t.Fatal(err)
	}
	const want = `"tunnel":[{"peer":"i-2","epoch":"e","given":7,"came":5},{"peer":"i-3","given":0,"came":0,"unknown":true}]`
	if !strings.Contains(string(line), want) {
		t.Errorf("%s\nhas not %s", line, want)
	}
	got, _, err := Parse(line)
	if err != nil || !slices.Equal(got.Tunnel, s.Tunnel) {
		t.Errorf("%+v, %v: want %+v", got, err, s.Tunnel)
	}
	many := make([]Passage, MaxPassages+1)
	for i := range many {
		many[i] = Passage{Peer: fmt.Sprintf("i-%06d", i), Epoch: "e"}
	}
	for name, rows := range map[string][]Passage{
		"order":             {{Peer: "i-3", Epoch: "e"}, {Peer: "i-2", Epoch: "e"}},
		"order of epochs":   {{Peer: "i-2", Epoch: "f"}, {Peer: "i-2", Epoch: "e"}},
		"twice":             {{Peer: "i-2", Epoch: "e"}, {Peer: "i-2", Epoch: "e"}},
		"no epoch":          {{Peer: "i-2", Given: 1}},
		"long peer":         {{Peer: strings.Repeat("i", maxID+1), Epoch: "e"}},
		"long epoch":        {{Peer: "i-2", Epoch: strings.Repeat("e", maxID+1)}},
		"unknown and given": {{Peer: "i-2", Given: 1, Unknown: true}},
		"unknown and came":  {{Peer: "i-2", Came: 1, Unknown: true}},
		"unknown in epoch":  {{Peer: "i-2", Epoch: "e", Unknown: true}},
		"too much given":    {{Peer: "i-2", Epoch: "e", Given: 1 << 62}},
		"too much came":     {{Peer: "i-2", Epoch: "e", Came: 1 << 63}},
		"nobody":            {{Epoch: "e", Came: 1}},
		"too many":          many,
	} {
		s.Tunnel = rows
		if line, err = s.Line(); err != nil {
			t.Fatal(err)
		}
		if _, is, err := Parse(line); !is || err == nil {
			t.Errorf("%s: %t, %v", name, is, err)
		}
	}
	if s.Tunnel = many[1:]; soundPassages(s.Tunnel) != nil {
		t.Errorf("%d rows are refused", len(s.Tunnel))
	}
}
