package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/audit/treelog"
	"github.com/culvert-net/culvert/controlplane/evidence"
	"github.com/culvert-net/culvert/controlplane/flowlog"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	// evidenceEvery is how often is looked whether nodes go on sealing, and what is kept aside.
	evidenceEvery = 5 * time.Second
	// packEvery is how often files of hours that are over are compressed.
	packEvery = time.Minute
	// silentFor is how long a connected node may seal nothing before that is a problem: it seals at least once a minute, and the seal
	// has to come here.
	silentFor = 75 * time.Second
)

// evidenceDir has what an auditor gets; what is under way is beside it.
func (s *Server) evidenceDir() string { return filepath.Join(s.cfg.DataDir, "evidence") }

// openEvidence opens the Merkle log, which notes the server's start, and what nodes sealed.
func (s *Server) openEvidence(ctx context.Context) error {
	// A server of before compared both ends of connections here: who verifies does that.
	if err := os.RemoveAll(filepath.Join(s.cfg.DataDir, "reconciling")); err != nil {
		return fmt.Errorf("server: %w", err)
	}
	s.tree = s.cfg.Tree
	signer, err := s.loadLogKey()
	if err != nil {
		return err
	}
	if s.tree == nil {
		if s.tree, err = treelog.Open(ctx, treelog.Config{Dir: filepath.Join(s.evidenceDir(), "log"), Signer: signer,
			Witnesses: s.cfg.Witnesses, WitnessRoots: s.cfg.WitnessRoots, Version: s.cfg.Version, Refusals: true,
			Now: s.cfg.Now, Logger: s.log}); err != nil {
			return fmt.Errorf("server: the Merkle log: %w", err)
		}
	}
	if err := s.loadNodeKeys(ctx); err != nil {
		return errors.Join(fmt.Errorf("server: keys of nodes: %w", err), s.tree.Close())
	}
	s.evidence, err = evidence.Open(ctx, evidence.Config{Dir: s.evidenceDir(), Work: filepath.Join(s.cfg.DataDir, "sealing"), Log: s.tree,
		Key: s.nodeKeys.get, Found: s.found, Now: s.cfg.Now, Logger: s.log})
	if err != nil {
		return errors.Join(fmt.Errorf("server: %w", err), s.tree.Close())
	}
	return nil
}

// closeEvidence closes it. What a crash leaves open is a gap that the next start shows.
func (s *Server) closeEvidence() error { return errors.Join(s.evidence.Close(), s.tree.Close()) }

// found is told by the evidence's store of what does not check; it must not wait.
func (s *Server) found(f evidence.Finding) {
	select {
	case s.findings <- f:
	default: // it is kept aside, and a problem
	}
}

// keepEvidence watches over it until ctx ends.
func (s *Server) keepEvidence(ctx context.Context) {
	tick := time.NewTicker(evidenceEvery)
	defer tick.Stop()
	var packedAt time.Time
	for {
		s.watchSeals()
		s.showFindings()
		if now := s.cfg.Now(); now.Sub(packedAt) >= packEvery {
			packedAt = now
			s.trouble("pack-evidence", "compressing evidence", s.evidence.Pack())
		}
		select {
		case <-tick.C:
		case f := <-s.findings:
			s.due(ctx, "write what was found", func(ctx context.Context) error { return s.auditFinding(ctx, f) })
		case <-ctx.Done():
			return
		}
	}
}

// auditFinding writes the audit event of a segment that does not check, or does not follow the one before.
func (s *Server) auditFinding(ctx context.Context, f evidence.Finding) error {
	action := "refuse-segment"
	if f.Kept {
		action = "miss-segment"
	}
	e := systemEvent(f.At, action)
	e.Resource, e.Message = f.Node, fmt.Sprintf("boot %s, segment %d: %s", f.Boot, f.Number, api.Shortened(oneLine(f.Reason)))
	return s.writeEvents(ctx, []api.AuditEvent{e})
}

// showFindings makes a problem of each node of which something is kept aside.
func (s *Server) showFindings() {
	aside, err := s.evidence.Aside()
	s.trouble("evidence-aside", "looking for what is kept aside of evidence", err)
	if err != nil {
		return
	}
	for node, f := range aside {
		what := "was refused"
		if f.Kept {
			what = "leaves a gap before it"
		}
		s.problems.set("evidence-aside-"+node, fmt.Sprintf("of the node %s the segment %d of the boot %s %s, %s: see "+
			"\"What to do on findings\" in OPERATIONS.md", s.nodeName(node), f.Number, f.Boot, what, f.Reason))
	}
	s.problems.keep("evidence-aside-", func(node string) bool { _, there := aside[node]; return there })
}

func (s *Server) nodeName(id string) string {
	if n := s.store.Snapshot().Nodes[id]; n != nil {
		return n.Name + " (" + id + ")"
	}
	return id
}

// watchSeals makes a problem of each node that is connected and seals nothing.
func (s *Server) watchSeals() {
	now := s.cfg.Now()
	silent := map[string]bool{}
	for id, n := range s.store.Snapshot().Nodes {
		since, connected := s.hub.connectedSince(id)
		if n.State == api.NodeRevoked || !connected {
			continue
		}
		if s.nodeKeys.count(id) == 0 {
			if now.Sub(since) > silentFor {
				silent[id] = true
				s.problems.set("seals-"+id, fmt.Sprintf("the node %s is connected and has told no key for its log: what it records is "+
					"no evidence; bring its agent up to date, or look at its log", s.nodeName(id)))
			}
			continue
		}
		heard := s.evidence.Sealed(id)
		if since.After(heard) {
			heard = since
		}
		if now.Sub(heard) <= silentFor {
			continue
		}
		silent[id] = true
		if s.problems.set("seals-"+id, fmt.Sprintf("the node %s is connected and has sealed nothing of its log for %d s: look at its "+
			"`culvert status` and its log", s.nodeName(id), int(now.Sub(heard).Seconds()))) {
			s.log.Error("a connected node seals nothing of its log", logkey.Node, id)
		}
	}
	s.problems.keep("seals-", func(node string) bool { return silent[node] })
}

// evidenceLine is what of an envelope is evidence: the line as the node wrote it, also of what it may not say. Nothing of nodes that have
// told no key to check it with, and nothing that is no line of theirs: its seal then says so.
func (s *Server) evidenceLine(e *api.FlowEnvelope) (evidence.Line, bool) {
	l := evidence.Line{Boot: e.Boot, Seq: e.Seq, Seal: e.Kind == api.KindOfSeal, Data: e.Record}
	good := s.nodeKeys.count(e.Node) > 0 && evidence.GoodBoot(e.Boot) && bytes.IndexByte(e.Record, '\n') < 0
	if l.Seal {
		return l, good && len(e.Record) <= seal.MaxLine
	}
	return l, good && len(e.Record) <= flowlog.MaxRecord && evidence.Sequence(e.Record) == e.Seq
}

// errTellKey asks a node for its key, and to send again.
func errTellKey(why string) error {
	return api.Errorf(api.CodeLogKeyUnknown, "", "tell it with POST /v1/node/log-key, then send again", "%s", why)
}

// keepSealed keeps lines of a node, and segments that they complete.
func (s *Server) keepSealed(ctx context.Context, node string, lines []evidence.Line, receipt *api.FlowReceipt) error {
	if len(lines) == 0 {
		return nil
	}
	taken, err := s.evidence.Take(ctx, node, lines)
	if errors.Is(err, evidence.ErrUnknownKey) {
		return errTellKey("a seal is signed by a key that the node has not told")
	}
	if ctx.Err() == nil {
		s.trouble("evidence", "keeping what nodes seal", err)
	}
	receipt.Segments, receipt.SegmentsRefused = taken.Segments, taken.Refused
	if err == nil && taken.Refused == 0 {
		s.heardSeals(node, lines)
	}
	return err
}
