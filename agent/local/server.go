package local

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
)

// maxBody bounds a request, in bytes.
const maxBody = 64 << 10

// Backend is what the agent answers with.
type Backend interface {
	Attach(context.Context, AttachRequest) (AttachResponse, error)
	Detach(context.Context, DetachRequest) error
	Status(context.Context) (Status, error)
	// PlanText is the dump of the plan in force.
	PlanText(context.Context) (string, error)
	Explain(context.Context, ExplainRequest) (api.Explanation, error)
	Whois(ctx context.Context, address string) (Whois, error)
	// Flows calls fn for every record that matches, oldest first; with follow it goes on until ctx ends.
	Flows(ctx context.Context, f api.FlowFilter, follow bool, fn func(*api.FlowRecord) error) error
}

// Serve answers on a Unix socket until ctx ends. The socket is 0600 and callers must be root or the agent's own user.
func Serve(ctx context.Context, socket string, b Backend, log *slog.Logger) error {
	l, err := listen(socket)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler: Handler(b), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	err = srv.Serve(peerChecked{l})
	os.Remove(socket)
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("local socket %s: %w", socket, err)
}

// listen takes over a stale socket, and refuses one that answers.
func listen(socket string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, fmt.Errorf("local socket: %w", err)
	}
	if c, err := net.DialTimeout("unix", socket, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("local socket %s: another agent answers there; stop it or choose another --socket", socket)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("local socket: %w", err)
	}
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("local socket %s: %w", socket, err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// peerChecked closes connections of callers that are neither root nor this process's user.
type peerChecked struct{ *net.UnixListener }

// Accept implements net.Listener.
func (l peerChecked) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(c); err == nil && (uid == 0 || int(uid) == os.Geteuid()) {
			return c, nil
		}
		c.Close()
	}
}

func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// Handler is the API without the socket.
func Handler(b Backend) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/attach", post(b.Attach))
	mux.HandleFunc("POST /v1/detach", post(func(ctx context.Context, r DetachRequest) (struct{}, error) {
		return struct{}{}, b.Detach(ctx, r)
	}))
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		s, err := b.Status(r.Context())
		reply(w, s, err)
	})
	mux.HandleFunc("GET /v1/plan", func(w http.ResponseWriter, r *http.Request) {
		text, err := b.PlanText(r.Context())
		if err != nil {
			reply(w, nil, err)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, text)
	})
	mux.HandleFunc("POST /v1/explain", post(b.Explain))
	mux.HandleFunc("GET /v1/whois", func(w http.ResponseWriter, r *http.Request) {
		out, err := b.Whois(r.Context(), r.URL.Query().Get("address"))
		reply(w, out, err)
	})
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, r *http.Request) { flows(b, w, r) })
	return unknown(mux)
}

func post[In, Out any](fn func(context.Context, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		in, err := read[In](http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			reply(w, nil, err)
			return
		}
		out, err := fn(r.Context(), in)
		reply(w, out, err)
	}
}

// read takes one request's body: JSON that can be read in one way only, and nothing in it that the agent does not know.
func read[In any](body io.Reader) (in In, err error) {
	data, err := io.ReadAll(body)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return in, api.Errorf(api.CodeRequestTooLarge, "body", "send less", "the request has more than %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return in, api.Errorf(api.CodeInvalidParameter, "body", "send all of it", "the request did not arrive as a whole: %v", err)
	}
	if e := api.CheckJSON(data); e != nil {
		e.Remedy = newerAgent
		return in, e
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		field := "body"
		if misfit, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && misfit.Field != "" {
			field = misfit.Field
		}
		return in, api.Errorf(api.CodeInvalidParameter, field, newerAgent, "the request is not what the agent expects: %s",
			api.Shortened(err.Error()))
	}
	return in, nil
}

const newerAgent = "send what the documentation says, or use a culvert of the agent's version"

func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		var e *api.Error
		if !errors.As(err, &e) {
			e = api.Errorf(api.CodeInternal, "", "see culvert status and the agent's log", "%v", err)
		}
		w.WriteHeader(e.GetStatus())
		v = e
	}
	_ = json.NewEncoder(w).Encode(v) // the caller went away: nobody to tell
}

// unknown answers whatever is no operation. The mux would answer in words of its own, and send callers elsewhere.
func unknown(next *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.EscapedPath(); path.Clean(p) == p {
			if _, pattern := next.Handler(r); pattern != "" {
				next.ServeHTTP(w, r)
				return
			}
		}
		reply(w, nil, api.Errorf(api.CodeRouteNotFound, "", newerAgent, "there is no %q %q", api.Shortened(r.Method),
			api.Shortened(r.URL.Path)))
	})
}

func flows(b Backend, w http.ResponseWriter, r *http.Request) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		err = api.Errorf(api.CodeInvalidParameter, "query", "write NAME=VALUE, joined by &, and escape other characters as in any URL",
			"%s", api.Shortened(err.Error()))
	}
	var f api.FlowFilter
	follow := false
	if err == nil {
		f, follow, err = ParseFilter(q)
	}
	if err != nil {
		reply(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	flush := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	n := 0
	err = b.Flows(r.Context(), f, follow, func(rec *api.FlowRecord) error {
		if f.Limit > 0 && n >= f.Limit {
			return errDone
		}
		n++
		if err := enc.Encode(rec); err != nil {
			return err
		}
		return flush.Flush()
	})
	if err != nil && !errors.Is(err, errDone) && r.Context().Err() == nil {
		_ = enc.Encode(map[string]string{"error": err.Error()})
	}
}

var errDone = errors.New("limit reached")

// filterNames are the values that a filter may have.
var filterNames = []string{"since", "until", "action", "interface", "endpoint", "connection", "service", "reason", "vpc",
	"address", "port",
	"limit", "follow"}

// ParseFilter reads a flow filter from named values; times are RFC 3339. What is unknown, given twice or empty is refused: a filter
// that is passed over would show more than was asked for.
func ParseFilter(q url.Values) (f api.FlowFilter, follow bool, err error) {
	for _, name := range slices.Sorted(maps.Keys(q)) {
		field := cmp.Or(strings.Trim(strconv.Quote(api.Shortened(name)), `"`), "query")
		switch {
		case !slices.Contains(filterNames, name):
			return f, false, api.Errorf(api.CodeInvalidParameter, field, "use one of "+strings.Join(filterNames, ", "), "it is no part of a filter")
		case len(q[name]) > 1:
			return f, false, api.Errorf(api.CodeInvalidParameter, name, "give it once", "it is given %d times", len(q[name]))
		case q[name][0] == "":
			return f, false, api.Errorf(api.CodeInvalidParameter, name, "give a value, or leave it out", "it has no value")
		}
	}
	for _, t := range []struct {
		name string
		to   *time.Time
	}{{"since", &f.Since}, {"until", &f.Until}} {
		if s := q.Get(t.name); s != "" {
			if *t.to, err = time.Parse(time.RFC3339Nano, s); err != nil {
				return f, false, invalid(t.name, s, "a time such as 2026-01-02T15:04:05Z")
			}
		}
	}
	f.Action = strings.ToUpper(q.Get("action"))
	if f.Action != "" && f.Action != api.ActionAccept && f.Action != api.ActionReject {
		return f, false, invalid("action", f.Action, "ACCEPT or REJECT")
	}
	if s := q.Get("port"); s != "" {
		p, err := strconv.ParseUint(s, 10, 16)
		if err != nil || p == 0 {
			return f, false, invalid("port", s, "a port from 1 to 65535")
		}
		f.Port = uint16(p)
	}
	if s := q.Get("limit"); s != "" {
		if f.Limit, err = strconv.Atoi(s); err != nil || f.Limit < 0 {
			return f, false, invalid("limit", s, "a number of records, 0 for all")
		}
	}
	if s := q.Get("address"); s != "" {
		if _, err := netip.ParseAddr(s); err != nil {
			return f, false, invalid("address", s, "an address such as 10.0.1.5")
		}
	}
	if s := q.Get("follow"); s != "" && s != "true" && s != "false" {
		return f, false, invalid("follow", s, "true or false")
	}
	f.Interface, f.Endpoint, f.Connection = q.Get("interface"), q.Get("endpoint"), q.Get("connection")
	f.Service, f.Reason, f.VPC, f.Address = q.Get("service"), strings.ToUpper(q.Get("reason")), q.Get("vpc"), q.Get("address")
	return f, q.Get("follow") == "true", nil
}

func invalid(field, value, want string) error {
	return api.Errorf(api.CodeInvalidParameter, field, "give "+want, "%s is %q", field, api.Shortened(value))
}
