package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
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
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, r *http.Request) { flows(b, w, r) })
	return mux
}

func post[In, Out any](fn func(context.Context, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
		d.DisallowUnknownFields()
		if err := d.Decode(&in); err != nil {
			reply(w, nil, &api.Error{Code: "InvalidParameterValue", Field: "body",
				Message: "the request is not the JSON expected: " + err.Error(), Remedy: "use a culvert of the agent's version"})
			return
		}
		out, err := fn(r.Context(), in)
		reply(w, out, err)
	}
}

func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		var e *api.Error
		status := http.StatusBadRequest
		if !errors.As(err, &e) {
			e, status = &api.Error{Code: "InternalError", Message: err.Error()}, http.StatusInternalServerError
		}
		w.WriteHeader(status)
		v = e
	}
	_ = json.NewEncoder(w).Encode(v) // the caller went away: nobody to tell
}

func flows(b Backend, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f, err := ParseFilter(q.Get)
	if err != nil {
		reply(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	flush := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	n := 0
	err = b.Flows(r.Context(), f, q.Get("follow") == "true", func(rec *api.FlowRecord) error {
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

// ParseFilter reads a flow filter from named values; times are RFC 3339.
func ParseFilter(get func(string) string) (f api.FlowFilter, err error) {
	for _, t := range []struct {
		name string
		to   *time.Time
	}{{"since", &f.Since}, {"until", &f.Until}} {
		if s := get(t.name); s != "" {
			if *t.to, err = time.Parse(time.RFC3339Nano, s); err != nil {
				return f, invalid(t.name, s, "a time such as 2026-01-02T15:04:05Z")
			}
		}
	}
	f.Action = strings.ToUpper(get("action"))
	if f.Action != "" && f.Action != api.ActionAccept && f.Action != api.ActionReject {
		return f, invalid("action", f.Action, "ACCEPT or REJECT")
	}
	if s := get("port"); s != "" {
		p, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return f, invalid("port", s, "a port from 1 to 65535")
		}
		f.Port = uint16(p)
	}
	if s := get("limit"); s != "" {
		if f.Limit, err = strconv.Atoi(s); err != nil || f.Limit < 0 {
			return f, invalid("limit", s, "a number of records, 0 for all")
		}
	}
	f.Interface, f.Endpoint, f.Connection = get("interface"), get("endpoint"), get("connection")
	f.Service, f.Reason, f.VPC, f.Address = get("service"), strings.ToUpper(get("reason")), get("vpc"), get("address")
	return f, nil
}

func invalid(field, value, want string) error {
	return &api.Error{Code: "InvalidParameterValue", Field: field, Message: fmt.Sprintf("%s is %q", field, value),
		Remedy: "give " + want}
}
