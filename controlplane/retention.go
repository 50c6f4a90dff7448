package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
)

// defaultSegmentDays keeps evidence, and what of flow logs was delivered to the server's own disk, for a year, of which PCI DSS 10.5.1
// speaks, and a month to look at it.
const defaultSegmentDays = 400

const day = 24 * time.Hour

func (s *Server) registerRetention() {
	reading(s, operation{http.MethodGet, "/v1/retention", "get-retention", "How long records, evidence and events are kept", anAdmin},
		func(c *call, _ *none) (*api.List[api.Retention], error) {
			out := &api.List[api.Retention]{Items: []api.Retention{}, Revision: c.r.Revision}
			for _, class := range api.RetentionClasses {
				out.Items = append(out.Items, *c.s.terms.of(class).shown(class))
			}
			return out, nil
		})
	writing(s, operation{http.MethodPatch, "/v1/retention/{id}", "modify-retention", "Change how long something is kept", anAdmin},
		modifyRetention)
	reading(s, operation{http.MethodGet, "/v1/legal-holds", "get-legal-holds", "What is kept whatever the retention", anAdmin},
		func(c *call, _ *none) (*api.List[api.LegalHold], error) {
			return &api.List[api.LegalHold]{Items: c.s.holds.list(), Revision: c.r.Revision}, nil
		})
	writing(s, operation{http.MethodPost, "/v1/legal-holds", "create-legal-hold", "Keep what is about something", anAdmin}, createLegalHold)
	writing(s, operation{http.MethodDelete, "/v1/legal-holds/{id}", "remove-legal-hold", "Release a legal hold", anAdmin}, removeLegalHold)
}

// term is how long something is kept that came before Until; the last of a class has none.
type term struct {
	For   time.Duration `json:"for"`
	Until time.Time     `json:"until,omitzero"`
}

// termsOf is a class's, oldest first. Minimum is in days.
type termsOf struct {
	Terms   []term `json:"terms"`
	Minimum int    `json:"minimum"`
}

// expires is when what is of a time may go: the longest term that was in force since binds it.
func (t termsOf) expires(of time.Time) time.Time {
	longest := time.Duration(0)
	for _, x := range t.Terms {
		if x.Until.IsZero() || of.Before(x.Until) {
			longest = max(longest, x.For)
		}
	}
	return of.Add(longest)
}

// change makes another term the one of what comes from now on.
func (t termsOf) change(to time.Duration, now time.Time) termsOf {
	out := termsOf{Minimum: t.Minimum}
	for _, x := range t.Terms {
		if x.Until.IsZero() {
			x.Until = now
		}
		if x.For > to && x.Until.Add(x.For).After(now) { // a shorter one, or one that binds nothing any more, says nothing
			out.Terms = append(out.Terms, x)
		}
	}
	out.Terms = append(out.Terms, term{For: to})
	return out
}

func daysOf(d time.Duration) int { return int((d + day - 1) / day) }

func (t termsOf) shown(class api.RetentionClass) *api.Retention {
	out := &api.Retention{Class: class, MinimumDays: t.Minimum}
	for _, x := range t.Terms {
		if x.Until.IsZero() {
			out.Days = daysOf(x.For)
		} else {
			out.Longer = append(out.Longer, api.RetentionTerm{Days: daysOf(x.For), Until: x.Until})
		}
	}
	return out
}

// terms are those of all classes.
type terms struct {
	mu      sync.Mutex
	by      map[api.RetentionClass]termsOf
	changes int
}

func (t *terms) of(class api.RetentionClass) termsOf {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.by[class]
}

func (t *terms) set(class api.RetentionClass, to termsOf) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.by[class] = to
	t.changes++
}

// replace takes what the store has, unless something was set since changes was read.
func (t *terms) replace(by map[api.RetentionClass]termsOf, changes int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changes != changes {
		return false
	}
	t.by = by
	return true
}

func (t *terms) changed() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changes
}

// expired tells whether what is of a time may go.
func (s *Server) expired(class api.RetentionClass, of time.Time) bool {
	return s.terms.of(class).expires(of).Before(s.cfg.Now())
}

// remembering is since when what left a node's view may still be in records that are kept.
func (s *Server) remembering(now time.Time) time.Time {
	longest := s.cfg.FlowRetention
	for _, t := range s.terms.of(api.RetainFlowRecords).Terms {
		longest = max(longest, t.For)
	}
	return now.Add(-longest)
}

// loadRetention brings back what was set, and takes for the rest what the server was started with. What is in the store counts, also
// where the call that wrote it ended with an error all the same, as when its client left.
func (s *Server) loadRetention(ctx context.Context) error {
	changes := s.terms.changed()
	by := map[api.RetentionClass]termsOf{
		api.RetainFlowRecords: {Terms: []term{{For: s.cfg.FlowRetention}}},
		api.RetainSegments:    {Terms: []term{{For: defaultSegmentDays * day}}},
		api.RetainAuditEvents: {Terms: []term{{For: s.cfg.audit.age}}},
		api.RetainDeliveries:  {Terms: []term{{For: defaultSegmentDays * day}}},
	}
	if err := s.eachSide(ctx, store.PrefixRetention, func(kv store.KV) error {
		var t termsOf
		if err := json.Unmarshal(kv.Value, &t); err != nil {
			return fmt.Errorf("%s: %w", kv.Key, err)
		}
		by[api.RetentionClass(strings.TrimPrefix(kv.Key, store.PrefixRetention))] = t
		return nil
	}); err != nil {
		return fmt.Errorf("server: retention: %w", err)
	}
	if !s.terms.replace(by, changes) {
		return s.loadRetention(ctx)
	}
	return s.loadHolds(ctx)
}

func modifyRetention(c *call, in *change[api.ModifyRetentionRequest]) (*api.Retention, error) {
	class := api.RetentionClass(in.ID)
	if !slices.Contains(api.RetentionClasses, class) {
		return nil, api.Errorf(api.CodeInvalidParameter, "id", fmt.Sprintf("use one of %v", api.RetentionClasses), "there is no class %q",
			api.Shortened(in.ID))
	}
	if class == api.RetainMerkleLog {
		return nil, api.Errorf(api.CodeInvalidCombination, "id", "set that of another class",
			"the Merkle log is kept for ever: without its beginning nothing in it can be proved")
	}
	have := c.s.terms.of(class)
	if in.Body.Days == nil && in.Body.MinimumDays == nil {
		return nil, api.Errorf(api.CodeMissingParameter, "days", "give days, minimumDays or both", "there is nothing to change")
	}
	for field, v := range map[string]*int{"days": in.Body.Days, "minimumDays": in.Body.MinimumDays} {
		if v != nil && (*v < 1 || *v > api.MaxRetentionDays) {
			return nil, api.Errorf(api.CodeInvalidParameter, field, fmt.Sprintf("give 1 to %d", api.MaxRetentionDays), "it is %d", *v)
		}
	}
	days := have.shown(class).Days
	if in.Body.Days != nil {
		days = *in.Body.Days
	}
	least := have.Minimum
	if m := in.Body.MinimumDays; m != nil {
		if *m < least {
			return nil, api.Errorf(api.CodeInvalidParameter, "minimumDays", "leave it as it is", "it is %d, and is never made less", least)
		}
		least = *m
	}
	if days < least {
		return nil, api.Errorf(api.CodeInvalidParameter, "days", fmt.Sprintf("give %d or more", least),
			"%d is less than the least that %s are kept", days, class)
	}
	next := have
	if in.Body.Days != nil {
		next = have.change(time.Duration(days)*day, c.now)
	}
	next.Minimum = least
	data, err := json.Marshal(next)
	if err != nil {
		return nil, err
	}
	c.subject = string(class)
	if err := c.changes("retention", string(class), have.shown(class), next.shown(class)); err != nil {
		return nil, err
	}
	c.tx.SetSide(store.PrefixRetention+string(class), data)
	c.then = func() { c.s.terms.set(class, next) }
	return next.shown(class), nil
}

// holds are the legal holds, by id.
type holds struct {
	mu      sync.Mutex
	by      map[string]api.LegalHold
	changes int
}

func (h *holds) list() []api.LegalHold {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]api.LegalHold{}, slices.SortedFunc(maps.Values(h.by), func(a, b api.LegalHold) int {
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})...)
}

func (h *holds) get(id string) (api.LegalHold, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	x, ok := h.by[id]
	return x, ok
}

func (h *holds) set(x api.LegalHold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.by == nil {
		h.by = map[string]api.LegalHold{}
	}
	h.by[x.ID] = x
	h.changes++
}

func (h *holds) remove(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.by, id)
	h.changes++
}

// over are the subjects of holds that reach into a span.
func (h *holds) over(from, to time.Time) (subjects []string) {
	for _, x := range h.list() {
		if x.From.Before(to) && x.To.After(from) {
			subjects = append(subjects, x.Subject)
		}
	}
	return subjects
}

// replace takes what the store has, unless something was set or removed since changes was read.
func (h *holds) replace(by map[string]api.LegalHold, changes int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changes != changes {
		return false
	}
	h.by = by
	return true
}

func (h *holds) changed() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changes
}

func (s *Server) loadHolds(ctx context.Context) error {
	changes := s.holds.changed()
	by := map[string]api.LegalHold{}
	err := s.eachSide(ctx, store.PrefixLegalHold, func(kv store.KV) error {
		var x api.LegalHold
		if err := json.Unmarshal(kv.Value, &x); err != nil {
			return fmt.Errorf("%s: %w", kv.Key, err)
		}
		by[x.ID] = x
		return nil
	})
	if err != nil {
		return fmt.Errorf("server: legal holds: %w", err)
	}
	if !s.holds.replace(by, changes) {
		return s.loadHolds(ctx)
	}
	return nil
}

func createLegalHold(c *call, in *creation[api.CreateLegalHoldRequest]) (*api.LegalHold, error) {
	if len(c.s.holds.list()) >= api.MaxLegalHolds {
		return nil, api.Errorf(api.CodeLimitExceeded, "", "release some that are not needed", "there are %d legal holds, which is all there may be",
			api.MaxLegalHolds)
	}
	b := &in.Body
	switch {
	case strings.TrimSpace(b.Reason) == "":
		return nil, api.Errorf(api.CodeMissingParameter, "reason", "say why, such as the case's number", "a legal hold needs a reason")
	case len(b.Reason) > api.MaxHoldReason, oneLine(b.Reason) != b.Reason:
		return nil, api.Errorf(api.CodeInvalidParameter, "reason", "give one line of text", "it has more than %d bytes, or cannot be printed",
			api.MaxHoldReason)
	case !b.From.Before(b.To):
		return nil, api.Errorf(api.CodeInvalidParameter, "to", "give a time after from", "nothing is from %s to %s", b.From.Format(time.RFC3339),
			b.To.Format(time.RFC3339))
	}
	subject, err := c.holdSubject(b)
	if err != nil {
		return nil, err
	}
	h := api.LegalHold{ID: newID("lh-"), CreatedAt: c.now, CreatedBy: c.who.id(), Reason: b.Reason, Subject: subject, From: b.From.UTC(),
		To: b.To.UTC()}
	data, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	c.subject = h.ID
	if err := c.changes("legal-holds", h.ID, nil, h); err != nil {
		return nil, err
	}
	c.tx.SetSide(store.PrefixLegalHold+h.ID, data)
	c.then = func() { c.s.holds.set(h) }
	return &h, nil
}

// holdSubject is the id of what a hold is about. What is deleted still has its records.
func (c *call) holdSubject(b *api.CreateLegalHoldRequest) (string, error) {
	given := 0
	for _, ref := range []string{b.VPC, b.Service, b.Endpoint, b.Node} {
		if ref != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return "", api.Errorf(api.CodeInvalidCombination, "vpcId", "make a hold for each", "a legal hold is about one thing")
	case b.VPC != "":
		return idOf(c, c.r.VPCs, api.KindVPC, "vpcId", b.VPC)
	case b.Service != "":
		return idOf(c, c.r.Services, api.KindService, "serviceId", b.Service)
	case b.Endpoint != "":
		return idOf(c, c.r.Endpoints, api.KindEndpoint, "endpointId", b.Endpoint)
	case b.Node != "":
		if api.IsID(api.KindNode.Prefix(), b.Node) {
			return b.Node, nil
		}
		n, err := c.nodeByRef("nodeId", b.Node)
		if err != nil {
			return "", err
		}
		return n.ID, nil
	case c.account != "":
		return c.account, nil
	}
	return "", api.Errorf(api.CodeMissingParameter, "vpcId", "give vpcId, serviceId, endpointId or nodeId, or the header Culvert-Account",
		"nothing is said that the legal hold is about")
}

func removeLegalHold(c *call, in *Removal) (*api.Result, error) {
	h, ok := c.s.holds.get(in.ID)
	if !ok {
		return nil, api.Errorf(api.CodeLegalHoldNotFound, "id", "list them with GET /v1/legal-holds", "there is no legal hold %q", api.Shortened(in.ID))
	}
	c.subject = h.ID
	if err := c.changes("legal-holds", h.ID, h, nil); err != nil {
		return nil, err
	}
	c.tx.SetSide(store.PrefixLegalHold+h.ID, nil)
	c.then = func() { c.s.holds.remove(h.ID) }
	return &api.Result{}, nil
}
