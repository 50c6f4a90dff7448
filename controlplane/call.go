package controlplane

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/failpoint"
)

const (
	outcomeSuccess = api.OutcomeSuccess
	// maxIdempotencyKey bounds the header, in bytes.
	maxIdempotencyKey = 128
	// idempotencyLife is how long a repeated call gets the first answer.
	idempotencyLife = 24 * time.Hour
)

// call is one request being answered: who asks, and the picture it is answered from.
type call struct {
	s       *Server
	ctx     context.Context
	who     *caller
	r       *api.Resources
	tx      *store.Tx // nil while reading
	account string    // whose resources the caller deals with; "": an administrator's view of all
	now     time.Time
	subject string            // id of the resource, for the audit event
	changed []api.AuditChange // of what is no resource, for the audit event
	dry     bool              // nothing is to be changed; known when it was refused
	kept    int               // bytes of the answer that are kept for repetition
	then    func()            // what is to follow once all is written; nil: nothing
}

func (s *Server) newCall(ctx context.Context, r *api.Resources) *call {
	who := callerOf(ctx)
	return &call{s: s, ctx: ctx, who: who, r: r, account: who.account, now: s.cfg.Now().UTC()}
}

// chooseAccount resolves the account that the caller asked to act for.
func (c *call) chooseAccount() error {
	if c.who.wanted == "" || c.who.key == nil {
		return nil
	}
	a := accountByRef(c.r, c.who.wanted)
	if a == nil || !c.who.admin() && a.ID != c.who.account {
		return api.NotFound(api.KindAccount, "account", c.who.wanted)
	}
	c.account = a.ID
	accessOf(c.ctx).account = a.ID
	return nil
}

func accountByRef(r *api.Resources, ref string) *api.Account {
	if a := r.Accounts[ref]; a != nil {
		return a
	}
	for _, a := range r.Accounts {
		if a.Name == ref {
			return a
		}
	}
	return nil
}

// visible reports whether the caller may know of a resource.
func (c *call) visible(res api.Resource) bool {
	if c.account != "" {
		return res.GetMeta().Account == c.account
	}
	return c.who.admin()
}

// find returns the resource that a request names by id or name; also narrows what a name may mean.
func find[T api.Resource](c *call, all map[string]T, kind api.Kind, field, ref string, also func(T) bool) (T, error) {
	var zero T
	if ref == "" {
		return zero, api.Errorf(api.CodeMissingParameter, field, "give its id or name", "no %s is given", kind.Noun())
	}
	if k, err := api.ParseID(ref); err == nil && k == kind {
		if res, ok := all[ref]; ok && c.visible(res) {
			return res, nil
		}
		return zero, api.NotFound(kind, field, ref)
	}
	var found []T
	for _, res := range all {
		if res.GetMeta().Name == ref && c.visible(res) && (also == nil || also(res)) {
			found = append(found, res)
		}
	}
	switch len(found) {
	case 0:
		return zero, api.NotFound(kind, field, ref)
	case 1:
		return found[0], nil
	}
	var ids []string
	for _, res := range found {
		ids = append(ids, res.GetMeta().ID)
	}
	slices.Sort(ids)
	return zero, api.Errorf(api.CodeAmbiguousName, field, fmt.Sprintf("give one of the ids %v", ids),
		"%d %ss have the name %q", len(found), kind.Noun(), ref)
}

// list returns what the caller may see of a kind, sorted by account, name and id.
func list[T any, P interface {
	*T
	api.Resource
}](c *call, all map[string]P, also func(P) bool) *api.List[T] {
	var chosen []P
	for _, res := range all {
		if c.visible(res) && (also == nil || also(res)) {
			chosen = append(chosen, res)
		}
	}
	slices.SortFunc(chosen, func(a, b P) int { return inOrder(a.GetMeta(), b.GetMeta()) })
	out := &api.List[T]{Items: make([]T, len(chosen)), Revision: c.r.Revision}
	for i, res := range chosen {
		out.Items[i] = *res
	}
	return out
}

// inOrder is the order of every list: by account, name and id.
func inOrder(x, y *api.Meta) int {
	return cmp.Or(cmp.Compare(x.Account, y.Account), cmp.Compare(x.Name, y.Name), cmp.Compare(x.ID, y.ID))
}

// owner is the account that a new resource without parent belongs to.
func (c *call) owner() (string, error) {
	if c.account == "" {
		return "", api.Errorf(api.CodeMissingParameter, "account", "name it with the header Culvert-Account (--account)",
			"an administrator has no account of its own")
	}
	return c.account, nil
}

// meta is the metadata of a new resource.
func (c *call) meta(kind api.Kind, account, name string, tags map[string]string) api.Meta {
	c.subject = newID(kind.Prefix())
	return api.Meta{ID: c.subject, Account: account, Name: name, Tags: tags, CreatedAt: c.now}
}

// put validates and writes a resource; its name must be free among its siblings.
func put[T interface {
	api.Resource
	Validate() error
}](c *call, res T, siblings map[string]T, also func(T) bool) error {
	if err := res.Validate(); err != nil {
		return err
	}
	m := res.GetMeta()
	for id, other := range siblings {
		o := other.GetMeta()
		if id != m.ID && m.Name != "" && o.Name == m.Name && o.Account == m.Account && (also == nil || also(other)) {
			return api.Errorf(api.CodeDuplicateName, "name", "choose another name",
				"the %s %s has the name %q already", res.Kind().Noun(), o.ID, m.Name)
		}
	}
	c.tx.Put(res)
	return nil
}

// limit refuses one more than allowed.
func limit[T any](all map[string]T, most int, what string, counts func(T) bool) error {
	n := 0
	for _, v := range all {
		if counts(v) {
			n++
		}
	}
	if n >= most {
		return api.Errorf(api.CodeLimitExceeded, "", "delete some that are not needed", "there are %d %s, at most %d are allowed",
			n, what, most)
	}
	return nil
}

// dependents collects what stands in the way of a deletion.
type dependents []string

func (d *dependents) add(id, name string) {
	if name != "" {
		id += " (" + name + ")"
	}
	*d = append(*d, id)
}

// refuse is nil when nothing stands in the way.
func (d dependents) refuse(kind api.Kind, id string) error {
	if len(d) == 0 {
		return nil
	}
	return d.needing(kind, id, "delete or change those first")
}

// needing is the refusal, with what to do about it.
func (d dependents) needing(kind api.Kind, id, remedy string) error {
	slices.Sort(d)
	names := slices.Compact(d)
	const shown = 10
	more := ""
	if len(names) > shown {
		more = fmt.Sprintf(" and %d more", len(names)-shown)
		names = names[:shown]
	}
	return api.Errorf(api.CodeDependencyViolation, "id", remedy,
		"the %s %s is needed by %v%s", kind.Noun(), id, []string(names), more)
}

// Parts of inputs. Their names are exported because the framework passes over embedded fields that are not.

// Mutation is what every changing request may carry.
type Mutation struct {
	DryRun         bool   `query:"dryRun" doc:"Check everything, change nothing; the answer is what would have been made."`
	IdempotencyKey string `header:"Idempotency-Key" doc:"The same key and body within 24 hours give the first answer again."`
}

func (m *Mutation) options() *Mutation { return m }

type mutating interface{ options() *Mutation }

// ByID names the resource that a request is about.
type ByID struct {
	ID string `path:"id" doc:"Id or name"`
}

// Removal is the input of what takes something away, or needs no body.
type Removal struct {
	Mutation
	ByID
}

// Input shapes.
type (
	creation[B any] struct {
		Mutation
		Body B
	}
	change[B any] struct {
		Mutation
		ByID
		Body B
	}
)

// errDryRun ends a transaction that must not commit.
var errDryRun = errors.New("dry run")

// remembered is an answer kept for repetition.
type remembered struct {
	Operation string          `json:"operation"`
	Request   string          `json:"request"` // SHA-256 of the body
	At        time.Time       `json:"at"`
	Answer    json.RawMessage `json:"answer"`
}

// writing registers an operation that changes something: one transaction, with its audit event.
func writing[I any, P interface {
	*I
	mutating
}, T any](s *Server, o operation, f func(c *call, in P) (*T, error)) {
	type output struct {
		Revision string `header:"Culvert-Revision"`
		DryRun   string `header:"Culvert-Dry-Run"`
		Body     *T
	}
	described := o.huma(s)
	described.Middlewares = huma.Middlewares{s.measure(o.id), s.require(o, true)}
	huma.Register(s.huma, described, func(ctx context.Context, in *I) (*output, error) {
		opts := P(in).options()
		who := callerOf(ctx)
		var c *call
		var out *T
		rev, err := s.store.Txn(ctx, func(tx *store.Tx) (err error) {
			c = s.newCall(ctx, tx.Resources())
			c.tx = tx
			if err := c.chooseAccount(); err != nil {
				return err
			}
			if e := s.mayAdd(who, o); e != nil {
				return e
			}
			if err := c.withinAudit(o); err != nil {
				return err
			}
			out, err = once(c, o.id, opts.IdempotencyKey, in, func() (*T, error) { return f(c, P(in)) })
			if err != nil {
				return err
			}
			if opts.DryRun {
				return errDryRun
			}
			return nil
		})
		if errors.Is(err, errDryRun) {
			return &output{DryRun: "true", Revision: strconv.FormatInt(s.store.Snapshot().Revision, 10), Body: out}, nil
		}
		if err != nil {
			e := s.failure(ctx, o.id, err)
			if c != nil {
				c.dry = opts.DryRun
			}
			s.auditRefusal(ctx, c, o.id, e)
			who.audited = true
			return nil, e
		}
		c.spend()
		failpoint.Here("call.done")
		if c.kept > 0 {
			s.answers.add(who.id(), c.kept)
		}
		if c.then != nil {
			c.then()
		}
		setRevision(out, rev)
		return &output{Revision: strconv.FormatInt(rev, 10), Body: out}, nil
	})
}

// setRevision tells the answer at which revision it became true.
func setRevision(out any, rev int64) {
	switch v := out.(type) {
	case *api.Result:
		v.Revision = rev
	case *api.LeaveResponse:
		v.Revision = rev
	case *api.List[api.Connection]:
		v.Revision = rev
		for i := range v.Items {
			v.Items[i].Revision = rev
		}
	case api.Resource:
		v.GetMeta().Revision = rev
	}
}

// once does it, or gives the answer of when it was done before under the same key. It writes the audit event.
func once[T any](c *call, op, key string, in any, f func() (*T, error)) (*T, error) {
	var side, request string
	if key != "" {
		strange := func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }
		if len(key) > maxIdempotencyKey || strings.ContainsFunc(key, strange) {
			return nil, api.Errorf(api.CodeInvalidParameter, "Idempotency-Key", "use a UUID",
				"it is not 1 to %d characters of ASCII without spaces and slashes", maxIdempotencyKey)
		}
		body, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(append(body, c.account...))
		request = hex.EncodeToString(sum[:])
		side = store.PrefixIdempotency + c.who.id() + "/" + key
		if out, err := recall[T](c, side, op, request); out != nil || err != nil {
			return out, err
		}
	}
	out, err := f()
	if err != nil {
		return nil, err
	}
	c.audit(op, outcomeSuccess)
	if side == "" {
		return out, nil
	}
	switch any(out).(type) {
	case *api.CreatedAPIKey, *api.CreatedToken:
		return nil, api.Errorf(api.CodeSecretNotReplayable, "Idempotency-Key", "leave the key out",
			"the answer holds a secret that is shown once, so it cannot be repeated")
	}
	answer, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(remembered{Operation: op, Request: request, At: c.now, Answer: answer})
	if err != nil {
		return nil, err
	}
	if !c.s.answers.room(c.who.id(), len(data)) {
		return nil, api.Errorf(api.CodeLimitExceeded, "Idempotency-Key", "leave it out, or wait: an answer is kept for 24 hours",
			"at most %d answers, and %d MiB of them, are kept for the key %s", api.MaxAnswersPerKey, api.MaxAnswerBytesPerKey>>20, c.who.id())
	}
	c.kept = len(data)
	c.tx.SetSide(side, data)
	return out, nil
}

// answers counts what is kept for repetition, by API key. It may be off by what other servers on the same store keep, until the
// next count.
type answers struct {
	mu   sync.Mutex
	kept map[string]keptAnswers
}

type keptAnswers struct{ n, bytes int }

func (k keptAnswers) plus(bytes int) keptAnswers { return keptAnswers{k.n + 1, k.bytes + bytes} }

// room reports whether one more answer may be kept.
func (a *answers) room(key string, bytes int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.kept[key].plus(bytes)
	return k.n <= api.MaxAnswersPerKey && k.bytes <= api.MaxAnswerBytesPerKey
}

func (a *answers) add(key string, bytes int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kept == nil {
		a.kept = map[string]keptAnswers{}
	}
	a.kept[key] = a.kept[key].plus(bytes)
}

// set replaces the counts by what the store was found to hold.
func (a *answers) set(kept map[string]keptAnswers) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept = kept
}

// recall returns the first answer to a repeated request, brought up to date where the resource still exists.
func recall[T any](c *call, side, op, request string) (*T, error) {
	data, err := c.tx.Side(side)
	if data == nil || err != nil {
		return nil, err
	}
	var old remembered
	if err := json.Unmarshal(data, &old); err != nil {
		return nil, err
	}
	if c.now.Sub(old.At) > idempotencyLife {
		return nil, nil
	}
	if old.Operation != op || old.Request != request {
		return nil, api.Errorf(api.CodeIdempotentMismatch, "Idempotency-Key", "use a new key for a new request",
			"the key was used for another request")
	}
	out := new(T)
	if err := json.Unmarshal(old.Answer, out); err != nil {
		return nil, err
	}
	if res, ok := any(out).(api.Resource); ok {
		c.r.Each(res.Kind(), func(have api.Resource) bool {
			if have.GetMeta().ID == res.GetMeta().ID {
				res.GetMeta().Revision = have.GetMeta().Revision
				return false
			}
			return true
		})
	}
	return out, nil
}
