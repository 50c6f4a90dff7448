package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
)

// OlderSchema is the newest to which there is a way back.
const OlderSchema = bpf.Version - 1

// Downgraded is what a downgrade left behind.
type Downgraded struct {
	From    uint32 `json:"fromSchema"`
	To      uint32 `json:"toSchema"`
	Entries int    `json:"flowEntries"` // two a flow
	Left    int    `json:"leftEntries"` // that the older schema has no words for; their flows end
}

// Downgrade gives what is pinned the form that an agent with an older schema takes up: its maps, with flow entries and what was
// counted, and its programs, closed. Nothing passes until that agent has applied its plan. No agent must be running. One
// that was interrupted can be repeated; a newer agent that is started instead takes all back.
func Downgrade(ctx context.Context, cfg Config, to uint32) (done Downgraded, err error) {
	done = Downgraded{From: bpf.Version, To: to}
	if objects[to] == nil {
		return done, api.Errorf(api.CodeInvalidParameter, "--schema",
			fmt.Sprintf("this version knows the way back to schema %d", OlderSchema), "there is no way from schema %d to %d",
			bpf.Version, to)
	}
	if _, err := os.Stat(versionDir(cfg.PinPath, bpf.Version)); err != nil {
		return done, fmt.Errorf("nothing of schema %d is pinned below %s, so there is nothing to downgrade", bpf.Version, cfg.PinPath)
	}
	spec, err := loadSchema(to)
	if err != nil {
		return done, err
	}
	d, err := open(cfg, to, spec)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.takeOver(ctx); err != nil {
		return done, err
	}
	if d.before != nil {
		done.Entries, done.Left = len(d.before.done.sums), d.before.done.left
	}
	return done, d.finish(ctx)
}
