package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/logkey"
)

// maxBody bounds a request's body, in bytes; what nodes send may be larger. A report of status with as many targets and transitions as
// are taken has 11 MiB when each character of a description takes six bytes of JSON.
const (
	maxBody       = 1 << 20
	maxStatusBody = 16 << 20
	maxFlowBody   = 32 << 20
)

type contextKey int

const (
	callerKey contextKey = iota
	requestIDKey
	accessKey
)

var errorsOnce sync.Once

// useOwnErrors makes the framework's own refusals look like ours. The hook is global to the framework.
func useOwnErrors() {
	errorsOnce.Do(func() {
		huma.ValidateStrictCasing = true // or one property could come twice, in two spellings
		huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
			return frameworkError(status, msg, errs)
		}
	})
}

func frameworkError(status int, msg string, errs []error) *api.Error {
	e := &api.Error{Code: api.CodeInvalidParameter, Message: msg, Remedy: seeSchema}
	var details []string
	for i, err := range errs {
		var d *huma.ErrorDetail
		if !errors.As(err, &d) {
			details = append(details, err.Error())
			continue
		}
		c := complaint(d)
		if i == 0 {
			e.Code, e.Field, e.Remedy = c.Code, c.Field, c.Remedy
			details = append(details, c.Message)
		} else {
			details = append(details, c.Field+": "+c.Message)
		}
	}
	if more := len(details) - maxDetails; more > 0 {
		details = append(details[:maxDetails], fmt.Sprintf("and %d more", more))
	}
	if len(details) > 0 {
		e.Message = api.Shortened(oneLine(strings.Join(details, "; ")))
	}
	switch {
	case status == http.StatusRequestEntityTooLarge:
		e.Code, e.Field, e.Remedy = api.CodeRequestTooLarge, "body", "send less at once"
	case status >= 500:
		*e = api.Error{Code: api.CodeInternal, Message: "the server could not answer"}
	case status == http.StatusNotAcceptable:
		e.Field, e.Remedy = "Accept", "accept application/json"
	case status == http.StatusUnsupportedMediaType:
		e.Field, e.Remedy = "Content-Type", "send application/json"
	case e.Field == "":
		e.Field = "body"
	}
	if e.Field == "body" && e.Code == api.CodeInvalidParameter {
		e.Remedy = "send one JSON object, in UTF-8, as /openapi.json describes it"
	}
	return e
}

// buildHTTP registers every operation. It does no I/O.
func (s *Server) buildHTTP() {
	useOwnErrors()
	mux := http.NewServeMux()
	config := huma.DefaultConfig("Culvert", s.cfg.Version)
	config.CreateHooks = nil // no $schema fields and links in answers
	config.DocsPath, config.SchemasPath = "", ""
	config.RejectUnknownQueryParameters = true // dryrun=true must not do it
	config.Formats = map[string]huma.Format{"application/json": strictJSON(), "json": strictJSON()}
	describeTypes(config.Components.Schemas)
	config.Transformers = append(config.Transformers, addRequestID)
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"apiKey":          {Type: "http", Scheme: "bearer", Description: "An API key, as printed when it was made."},
		"nodeCertificate": {Type: "mutualTLS", Description: "The certificate that a node got when it joined."},
	}
	s.huma = humago.New(mux, config)
	s.registerAccounts()
	s.registerNetwork()
	s.registerDomains()
	s.registerHostedZones()
	s.registerResolverRules()
	s.registerFlowLogs()
	s.registerFirewall()
	s.registerQueryLogs()
	s.registerQueries()
	s.registerENIs()
	s.registerGroups()
	s.registerBalancing()
	s.registerServices()
	s.registerEndpoints()
	s.registerNodes()
	s.registerNodeSide()
	s.registerFlows()
	s.registerLogKeys()
	s.registerEvidence()
	s.registerRetention()
	s.registerStatus()
	s.registerExplain()
	s.registerWhois()
	s.describe()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, r, api.Errorf(api.CodeRouteNotFound, "", "see /openapi.json", "there is no %q %q", api.Shortened(r.Method),
			api.Shortened(r.URL.Path)))
	})
	s.handler = s.outermost(mux)
}

// outermost gives every request an id and a line in the log, and turns a panic into an answer.
func (s *Server) outermost(next http.Handler) http.Handler {
	prefix := newID("req-")[:12]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := fmt.Sprintf("%s-%d", prefix, s.requests.Add(1))
		w.Header().Set(client.HeaderRequestID, id)
		a := &access{id: id, began: time.Now()}
		r = r.WithContext(context.WithValue(context.WithValue(r.Context(), requestIDKey, id), accessKey, a))
		said := &answered{ResponseWriter: w}
		w = said
		defer func() { s.logAccess(a, said.status) }()
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler { //nolint:errorlint // net/http compares it this way
					panic(p)
				}
				s.log.Error("request panicked", logkey.RequestID, id, logkey.Panic, p, logkey.Stack, string(debug.Stack()))
				writeError(w, r, &api.Error{Code: api.CodeInternal, Message: "the server could not answer"})
			}
		}()
		if e := unambiguous(r.URL); e != nil {
			writeError(w, r, e)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey).(string)
	return id
}

// addRequestID completes every error on its way out.
func addRequestID(ctx huma.Context, _ string, v any) (any, error) {
	if e, ok := v.(*api.Error); ok {
		callerOf(ctx.Context()).refusal = e
		withID := *e
		withID.RequestID = requestID(ctx.Context())
		return &withID, nil
	}
	return v, nil
}

// writeError answers outside the framework.
func writeError(w http.ResponseWriter, r *http.Request, e *api.Error) {
	withID := *e
	withID.RequestID = requestID(r.Context())
	w.Header().Set("Content-Type", "application/json")
	if e.GetStatus() == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(e.GetStatus())
	_ = json.NewEncoder(w).Encode(&withID)
}

// failure makes an answer of any error: the caller's mistakes as they are, ours without detail.
func (s *Server) failure(ctx context.Context, op string, err error) *api.Error {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, store.ErrNotReady), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return api.Errorf(api.CodeUnavailable, "", "look whether it happened, then try again", "the store did not answer in time")
	case errors.Is(err, store.ErrDiskFull):
		s.diskFull.add("store", err.Error())
		return api.Errorf(api.CodeUnavailable, "", "have the server's administrator make room on its disk, then try again",
			"the server's disk is full; nothing was changed")
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		s.diskFull.add(op, err.Error())
		return api.Errorf(api.CodeUnavailable, "", "have the server's administrator make room on its disk, then try again",
			"the server's disk is full; what is not stored can be sent again")
	}
	s.log.Error("request failed", logkey.Operation, op, logkey.RequestID, requestID(ctx), logkey.Error, err)
	return &api.Error{Code: api.CodeInternal, Message: "the server could not do it", Remedy: "look for the request id in its log"}
}

// operation describes one route.
type operation struct {
	method, path string
	id           string // such as create-vpc: also the action in audit events
	summary      string
	policy       policy
}

func (o operation) huma(s *Server) huma.Operation {
	security := []map[string][]string{{"apiKey": {}}}
	switch o.policy {
	case anyone:
		security = nil
	case aNode, aNodeRenewing:
		security = []map[string][]string{{"nodeCertificate": {}}}
	}
	return huma.Operation{
		OperationID: o.id, Method: o.method, Path: o.path, Summary: o.summary, Security: security,
		Tags: []string{tagOf(o.path)}, MaxBodyBytes: maxBody, BodyReadTimeout: 30 * time.Second,
		Middlewares: huma.Middlewares{s.measure(o.id), s.require(o, false)},
		Metadata:    map[string]any{forAdmins: o.policy == anAdmin},
	}
}

func tagOf(path string) string {
	parts := strings.Split(path, "/")
	return parts[min(2, len(parts)-1)]
}

// reading registers an operation that changes nothing.
func reading[I, T any](s *Server, o operation, f func(c *call, in *I) (*T, error)) {
	type output struct {
		Revision int64 `header:"Culvert-Revision"`
		Body     *T
	}
	huma.Register(s.huma, o.huma(s), func(ctx context.Context, in *I) (*output, error) {
		c := s.newCall(ctx, s.store.Snapshot())
		if err := c.chooseAccount(); err != nil {
			return nil, s.failure(ctx, o.id, err)
		}
		out, err := f(c, in)
		if err != nil {
			return nil, s.failure(ctx, o.id, err)
		}
		return &output{Revision: c.r.Revision, Body: out}, nil
	})
}
