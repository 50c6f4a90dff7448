package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"
)

// state is how far a node's segments are in their place. What a crash leaves is compared with it.
type state struct {
	Head  string            `json:"head,omitempty"` // hash of the newest seal's line
	Taken time.Time         `json:"taken,omitzero"` // when that came, by the server's clock
	Boots map[string]booted `json:"boots"`
	Files map[string]whole  `json:"files"` // by BOOT/HOUR.ndjson: those that are not packed
}

// booted is how far one boot is.
type booted struct {
	Number uint64    `json:"number"` // of the newest good seal
	Hash   string    `json:"hash"`   // of its line
	Last   uint64    `json:"last"`   // sequence number of the newest line that is in its place, or was refused
	At     time.Time `json:"at"`
}

// whole is how much of a file is whole segments.
type whole struct {
	Size int64     `json:"size"`
	At   time.Time `json:"at"` // when it grew
}

func (s state) clone() state {
	s.Boots, s.Files = maps.Clone(s.Boots), maps.Clone(s.Files)
	return s
}

const stateSuffix = ".json"

func (b *book) load() error {
	b.state = state{Boots: map[string]booted{}, Files: map[string]whole{}}
	data, err := os.ReadFile(b.statePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, &b.state)
	}
	if err != nil {
		return fmt.Errorf("evidence: read %s (restore the data directory from a backup): %w", b.statePath(), err)
	}
	if b.state.Boots == nil || b.state.Files == nil {
		return fmt.Errorf("evidence: %s is damaged: restore the data directory from a backup", b.statePath())
	}
	if !b.state.Taken.IsZero() {
		b.taken.Store(b.state.Taken.UnixNano())
	}
	return nil
}

func (b *book) save(next state) error {
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := replaceFile(b.statePath(), data); err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	b.state = next
	b.taken.Store(next.Taken.UnixNano())
	return nil
}
