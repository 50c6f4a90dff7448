package delivery

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/controlplane/flowlog"
)

const (
	stateFile = "state.json"
	// spoolSuffix marks files that wait for their destination.
	spoolSuffix = ".spool"
)

// progress is what is known of one flow log over restarts: one file, written as a whole. A file of the spool that it does not name was
// being written when the server died; it is removed, and what was in it is written anew.
type progress struct {
	// Records before Pos are in files, but for those that end in [Until, Hold) and lie behind From: they are for the next window.
	From  flowlog.Position `json:"from"`
	Pos   flowlog.Position `json:"pos"`
	Until time.Time        `json:"until"`
	Hold  time.Time        `json:"hold"`
	// Seen are interfaces that had traffic behind Until, whose records were read already, by the ends of windows of a file.
	Seen map[time.Time][]string `json:"seenIn,omitempty"`
	// Served is the key of the newest edit before which all was written.
	Served string   `json:"served,omitempty"`
	Queue  []Object `json:"queue,omitempty"` // in the spool, oldest first
	Next   uint64   `json:"next"`            // number of the next file of the spool
	Lost   uint64   `json:"lost"`            // records that were given up
	// Undeclared of these stand in no line with SKIPDATA yet.
	Undeclared  uint64    `json:"undeclared,omitempty"`
	Objects     uint64    `json:"objects"`
	Lines       uint64    `json:"lines"`
	DeliveredAt time.Time `json:"deliveredAt,omitzero"`
}

// place is the directory of one flow log.
type place struct{ dir state.Dir }

func (d *Deliverer) place(id string) place { return place{state.Dir(filepath.Join(d.cfg.Dir, id))} }

// load reads the progress, nil where there is none, and removes what it does not name.
func (p place) load() (*progress, error) {
	data, err := os.ReadFile(p.dir.Path(stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out progress
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, fmt.Errorf("%s is damaged: move it elsewhere, and delivery begins anew: %w", p.dir.Path(stateFile), err)
	}
	return &out, p.sweep(&out)
}

// sweep removes files that are not waiting.
func (p place) sweep(have *progress) error {
	waiting := map[string]bool{}
	for _, o := range have.Queue {
		waiting[o.File] = true
	}
	entries, err := os.ReadDir(string(p.dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), spoolSuffix) && !waiting[e.Name()] || strings.HasPrefix(e.Name(), ".") {
			err = errors.Join(err, os.Remove(p.dir.Path(e.Name())))
		}
	}
	return err
}

func (p place) save(v *progress) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return p.dir.Write(stateFile, data)
}

func (p place) forget() error { return os.RemoveAll(string(p.dir)) }
