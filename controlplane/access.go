package controlplane

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/culvert-net/culvert/internal/logkey"
)

// access is what the log tells of one request. Nothing of its query, headers or body is in it: those may hold secrets.
type access struct {
	id        string
	operation string // "" where no operation has the path
	who       *caller
	account   string // that the caller acted for
	began     time.Time
}

// accessOf is the entry of a request under way.
func accessOf(ctx context.Context) *access {
	if a, ok := ctx.Value(accessKey).(*access); ok {
		return a
	}
	return &access{}
}

// answered notes the status that an answer begins with. http.ResponseController reaches what it wraps.
type answered struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (a *answered) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answered) Write(data []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(data)
}

// Unwrap is for http.ResponseController.
func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// logAccess writes the line of a request that is over. What nodes say all the time, and callers that nobody knows, who could fill
// the log, are told of at level debug; of the latter there is a count once a minute.
func (s *Server) logAccess(a *access, status int) {
	who := a.who
	if who == nil {
		who = &caller{}
	}
	level := slog.LevelInfo
	switch {
	case status >= http.StatusInternalServerError:
		level = slog.LevelWarn
	case who.id() == anonymous:
		level = slog.LevelDebug
		if status >= http.StatusBadRequest {
			s.strangers.add(anonymous, a.operation+" from "+who.source)
		}
	case who.node != nil && status < http.StatusBadRequest:
		level = slog.LevelDebug
	}
	code := ""
	if who.refusal != nil {
		code = string(who.refusal.Code)
	}
	s.log.Log(context.Background(), level, "request", logkey.RequestID, a.id, logkey.Operation, a.operation, logkey.Caller, who.id(),
		logkey.Account, a.account, logkey.Address, who.source, logkey.Status, status, logkey.Code, code,
		logkey.DurationMS, time.Since(a.began).Milliseconds())
}
