package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/delivery"
	"github.com/culvert-net/culvert/controlplane/store"
)

// maxFlowNotes bounds the edits of one flow log that wait until what came before them is written: some seconds of edits, or those made
// while its destination takes nothing.
const maxFlowNotes = 64

// flowNotes keep delivery's notes as side keys of the store: so they are there exactly when the flow log is as it was made or edited.
type flowNotes struct{ store store.Store }

func flowNotePrefix(flowLog string) string { return store.PrefixFlowNote + flowLog + "/" }

// List implements delivery.Notes.
func (n flowNotes) List(ctx context.Context, flowLog string) ([]delivery.Note, error) {
	all, err := n.store.List(ctx, flowNotePrefix(flowLog), "", maxFlowNotes+1)
	if err != nil {
		return nil, fmt.Errorf("notes on flow log %s: %w", flowLog, err)
	}
	out := make([]delivery.Note, len(all))
	for i, kv := range all {
		if err := json.Unmarshal(kv.Value, &out[i]); err != nil {
			return nil, fmt.Errorf("note %s: %w", kv.Key, err)
		}
		out[i].Key = strings.TrimPrefix(kv.Key, flowNotePrefix(flowLog))
	}
	return out, nil
}

// Remove implements delivery.Notes.
func (n flowNotes) Remove(ctx context.Context, flowLog string, note delivery.Note) error {
	return n.store.Delete(ctx, flowNotePrefix(flowLog)+note.Key)
}

// noteFlowLog notes with the transaction where the store of records ends: before is the flow log as it was until now, nil of a new one.
func (c *call) noteFlowLog(id string, before *api.FlowLog) error {
	var revision int64 // that an edit puts an end to; they follow each other
	if before != nil {
		revision = before.Revision
		all, err := c.s.store.List(c.ctx, flowNotePrefix(id), "", maxFlowNotes)
		if err != nil {
			return err
		}
		if len(all) == maxFlowNotes {
			return api.Errorf(api.CodeLimitExceeded, "id", "see deliverLogsStatus, and edit it again when that is well, or make another flow log",
				"%d edits wait until what was recorded before them is written", maxFlowNotes)
		}
	}
	end, err := c.s.flows.End()
	if err != nil {
		return err
	}
	data, err := json.Marshal(delivery.Note{At: end, Before: before})
	if err != nil {
		return err
	}
	c.tx.SetSide(fmt.Sprintf("%s%020d", flowNotePrefix(id), revision), data)
	return nil
}

// forgetFlowNotes takes the notes away with their flow log.
func (c *call) forgetFlowNotes(id string) error {
	all, err := c.s.store.List(c.ctx, flowNotePrefix(id), "", maxFlowNotes+1)
	for _, kv := range all {
		c.tx.SetSide(kv.Key, nil)
	}
	return err
}
