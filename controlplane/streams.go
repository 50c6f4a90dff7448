package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	// keepAlive is how often a quiet stream sends an empty line; clients give up after 35 s of silence.
	keepAlive = 10 * time.Second
	// writeTimeout bounds one write to a stream, so that who stopped reading does not hold it forever.
	writeTimeout = 30 * time.Second

	ndjson = "application/x-ndjson"
)

// stream completes the description of an operation that answers with lines.
func stream(o huma.Operation, doc string) huma.Operation {
	o.Responses = map[string]*huma.Response{"200": {
		Description: doc,
		Content:     map[string]*huma.MediaType{ndjson: {Schema: &huma.Schema{Type: huma.TypeString}}},
	}}
	return o
}

// lines writes a stream of newline-delimited JSON.
type lines struct {
	w    http.ResponseWriter
	ctl  *http.ResponseController
	last time.Time // of the last write
	// patience bounds one write.
	patience time.Duration
}

// startLines begins the answer.
func startLines(ctx huma.Context) (*lines, *http.Request) {
	r, w := humago.Unwrap(ctx)
	w.Header().Set("Content-Type", ndjson)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return &lines{w: w, ctl: http.NewResponseController(w), patience: writeTimeout}, r
}

func (l *lines) send(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return l.write(append(data, '\n'))
}

func (l *lines) write(data []byte) error {
	l.last = time.Now()
	if err := l.ctl.SetWriteDeadline(l.last.Add(l.patience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	_, err := l.w.Write(data)
	return err
}

// caughtUp sends what is buffered, and an empty line when nothing else was sent for a while.
func (l *lines) caughtUp() error {
	if time.Since(l.last) >= keepAlive/2 {
		if err := l.write([]byte{'\n'}); err != nil {
			return err
		}
	}
	return l.ctl.Flush()
}

// streamViews keeps a node up to date. Every change of the mesh sends the view again, also where nothing changed for this node
// but the revision: the revision that a node reports is what `--wait` compares, and one way through is the way that is tested.
// Changes that come while a view is on its way are sent as one.
func (s *Server) streamViews(ctx context.Context, _ *none) (*huma.StreamResponse, error) {
	who := s.newCall(ctx, nil).who
	node := who.node.ID
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		out, r := startLines(hc)
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		// The stream may not outlive what it was opened with.
		expiry := time.NewTimer(r.TLS.PeerCertificates[0].NotAfter.Sub(s.cfg.Now()))
		defer expiry.Stop()
		defer s.hub.stream(node, s.cfg.Now)()
		changes := s.store.Watch(ctx)
		refresh, alive := time.NewTicker(s.cfg.Tick), time.NewTicker(keepAlive)
		defer refresh.Stop()
		defer alive.Stop()
		full := true
		for {
			if full {
				if known, err := s.sendView(ctx, out, node, who.serial); err != nil || !known {
					s.log.Debug("view stream ended", logkey.Node, node, logkey.Error, err)
					return
				}
			}
			if out.caughtUp() != nil {
				return
			}
			select {
			case <-changes:
				full = true
			case <-refresh.C:
				full = true
			case <-alive.C:
				full = false
			case <-ctx.Done():
				return
			case <-expiry.C:
				return
			case <-s.stopping:
				return
			}
		}
	}}, nil
}

// sendView sends the newest view unless that is too large; known is false for a node that may not have one any more, or not by its
// certificate.
func (s *Server) sendView(ctx context.Context, out *lines, node, serial string) (known bool, err error) {
	r := s.store.Snapshot()
	if n := r.Nodes[node]; n == nil || n.State == api.NodeRevoked || !goodSerial(n, serial) {
		return false, nil
	}
	if s.hub.tooLargeAt(node, r.Revision) != nil {
		return true, nil // found before: not computed again
	}
	v := s.viewOf(r, node)
	if !s.viewFits(v, leastSize(v)) {
		return true, nil
	}
	v.IssuedAt, v.MaxAgeSeconds = s.cfg.Now().UTC(), uint32(s.cfg.ViewMaxAge/time.Second)
	if v.GossipKeys, err = s.gossipKeys(ctx, r); err != nil {
		return true, err
	}
	signed, err := state.SignView(s.viewKey, v)
	if err != nil {
		return true, err
	}
	if !s.viewFits(v, len(signed.View)) {
		return true, nil
	}
	s.hub.setTooLarge(node, nil)
	return true, out.send(signed)
}

// viewOf computes a node's view and remembers what it concerns.
func (s *Server) viewOf(r *api.Resources, node string) *api.View {
	v := s.index.get(r).View(node)
	if now := s.cfg.Now(); v != nil { // nil: it was deleted a moment ago
		s.hub.relate(node, v, r, now, s.remembering(now))
	}
	return v
}
