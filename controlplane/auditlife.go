package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
)

const (
	// keyRun is the run of a server that has not said that it stops.
	keyRun = "run"
	// unsaidStop is in the message of a start after a crash.
	unsaidStop = "did not say that it stopped"
)

// serverRun is kept while a server runs.
type serverRun struct {
	StartedAt time.Time `json:"startedAt"`
	Version   string    `json:"version"`
}

// tellCounted makes events of the counts of refusals that a server left which was killed. Housekeeping tries until that is done.
func (s *Server) tellCounted(ctx context.Context) error {
	if s.countedTold {
		return nil
	}
	var left []due
	err := s.eachSide(ctx, store.PrefixCounted, func(kv store.KV) error {
		if strings.HasPrefix(kv.Key, store.PrefixCounted+s.repeats.run+"/") {
			return nil
		}
		d := due{keys: []string{kv.Key}}
		if err := json.Unmarshal(kv.Value, &d.AuditEvent); err != nil { // it is in no other's way, and its loss is told
			d.AuditEvent = systemEvent(s.cfg.Now(), api.ActionLoseCount)
			d.Message = fmt.Sprintf("a count of refused calls is damaged: %s", api.Shortened(oneLine(err.Error())))
		}
		left = append(left, d)
		return nil
	})
	for err == nil && len(left) > 0 {
		part := left[:min(len(left), atOnce)]
		left = left[len(part):]
		err = s.putEvents(ctx, part)
	}
	s.countedTold = err == nil
	return err
}

// noteStart writes once that the server started, and whether the one before stopped as it should: one that was killed may have
// written less than happened. A full disk keeps no server from starting, so housekeeping tries until it is written.
func (s *Server) noteStart(ctx context.Context) error {
	if s.startSaid {
		return nil
	}
	_, err := s.store.Txn(ctx, func(tx *store.Tx) error {
		e := systemEvent(s.started, api.ActionStartServer)
		e.Message = "version " + s.cfg.Version
		data, err := tx.Side(keyRun)
		if err != nil {
			return err
		}
		var before serverRun
		if data != nil && json.Unmarshal(data, &before) == nil {
			e.Message += fmt.Sprintf("; the server that started at %s, version %s, %s: how often logs were read in its last minute is lost",
				before.StartedAt.UTC().Format(time.RFC3339), before.Version, unsaidStop)
		}
		run, err := json.Marshal(serverRun{s.started.UTC(), s.cfg.Version})
		if err != nil {
			return err
		}
		tx.SetSide(keyRun, run)
		tx.Audit(e)
		return nil
	})
	s.startSaid = err == nil
	return err
}

// noteStop writes that the server stops, last of all.
func (s *Server) noteStop(ctx context.Context) error {
	_, err := s.store.Txn(ctx, func(tx *store.Tx) error {
		e := systemEvent(s.cfg.Now(), api.ActionStopServer)
		e.Message = "version " + s.cfg.Version
		tx.SetSide(keyRun, nil)
		tx.Audit(e)
		return nil
	})
	return err
}
