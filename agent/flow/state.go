package flow

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"iter"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// stateEnd is the last line of state.json.
type stateEnd struct {
	End *int `json:"end"` // lines of flows
}

// keepState writes state.json with what the log itself knows, flow by flow: a full table's would be large at once.
func (l *Log) keepState(st *state, flows iter.Seq[api.FlowRecord]) error {
	l.mu.Lock()
	st.Trimmed = slices.Clone(l.trimmed)
	l.mu.Unlock()
	if l.chain != nil {
		st.Chain = l.chain.state()
	}
	return l.cfg.Store.Replace(stateName, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(st); err != nil {
			return err
		}
		n := 0
		for r := range flows {
			if err := enc.Encode(keptFlow(&r)); err != nil {
				return err
			}
			n++
		}
		return enc.Encode(stateEnd{&n})
	})
}

// closedFlow is what is kept of a flow whose closing record exists: its counts, in case that there come more.
type closedFlow struct {
	FlowID       string `json:"flowId"`
	State        string `json:"state"`
	Packets      uint64 `json:"packets"`
	Bytes        uint64 `json:"bytes"`
	ReplyPackets uint64 `json:"replyPackets"`
	ReplyBytes   uint64 `json:"replyBytes"`

	Retransmits      uint64 `json:"retransmits,omitempty"`
	ReplyRetransmits uint64 `json:"replyRetransmits,omitempty"`
}

func keptFlow(r *api.FlowRecord) any {
	if r.State != api.FlowClosed {
		return r
	}
	return closedFlow{r.FlowID, r.State, r.Packets, r.Bytes, r.ReplyPackets, r.ReplyBytes, r.Retransmits, r.ReplyRetransmits}
}

// readState reads state.json. What is missing or damaged is as in a fresh log.
func readState(s Store, each func(r *api.FlowRecord)) (st state, damaged bool, err error) {
	b, err := s.Get(stateName)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, false, nil
	}
	if err != nil {
		return state{}, false, err
	}
	lines := 0
	for range bytes.Lines(b) {
		lines++
	}
	if !soundState(b, lines, &st) {
		return state{}, true, nil
	}
	if lines <= 1 { // of a build before 0024
		for i := range st.Flows {
			each(&st.Flows[i])
		}
		st.Flows = nil
		return st, false, nil
	}
	at := 0
	for line := range bytes.Lines(b) {
		if at++; at == 1 || at == lines {
			continue
		}
		var r api.FlowRecord
		if json.Unmarshal(line, &r) != nil || r.FlowID == "" {
			return state{}, true, nil
		}
		each(&r)
	}
	return st, false, nil
}

// soundState reads the first line, and sees whether the last one fits.
func soundState(b []byte, lines int, st *state) bool {
	first, _, _ := bytes.Cut(b, []byte{'\n'})
	if json.Unmarshal(first, st) != nil {
		return false
	}
	if lines <= 1 {
		return true
	}
	whole := bytes.TrimSuffix(b, []byte{'\n'})
	var end stateEnd
	err := json.Unmarshal(whole[bytes.LastIndexByte(whole, '\n')+1:], &end)
	return err == nil && end.End != nil && *end.End == lines-2
}
