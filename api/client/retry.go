package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/culvert-net/culvert/api"
)

// How often, and after how long, something is sent again. Before each attempt the client waits between half a pause and all of it,
// and doubles the pause: 1.5 s in all at most, which a server that is started anew takes.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 800 * time.Millisecond
	// maxTries of a request that the server puts off.
	maxTries = 5
)

// request is what is sent, perhaps several times.
type request struct {
	method, path, target string
	header               http.Header
	body                 []byte
	ownKey               bool // the idempotency key is the client's
}

// repeatable reports whether it does no harm to do it twice: a deletion by name could hit what got the name since.
func (r *request) repeatable() bool {
	return r.method == http.MethodGet || r.header.Get(HeaderIdempotencyKey) != ""
}

// dropKey takes the client's own key away where the server has no room for another answer to keep; it has done nothing then.
func (r *request) dropKey(err error) bool {
	var e *api.Error
	full := errors.As(err, &e) && e.Code == api.CodeLimitExceeded && e.Field == HeaderIdempotencyKey
	if !r.ownKey || !full {
		return false
	}
	r.ownKey = false
	r.header.Del(HeaderIdempotencyKey)
	return true
}

// onTheWay is a failure between here and the server: whether it was done is not known.
type onTheWay struct{ error }

// Unwrap returns what failed.
func (e *onTheWay) Unwrap() error { return e.error }

// certificateError is a failure that comes again.
type certificateError struct{ error }

// Unwrap returns what failed.
func (e *certificateError) Unwrap() error { return e.error }

// lasting marks what is wrong with a certificate.
func lasting(err error) error {
	if err == nil {
		return nil
	}
	return &certificateError{err}
}

// passing reports whether a failure may not come again: that of a connection which was refused, or broke. What the server answered,
// what is wrong with a certificate or a name, and what took too long comes again.
func passing(err error) bool {
	if _, ok := errors.AsType[*onTheWay](err); !ok || errors.Is(err, context.Canceled) {
		return false
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return false
	}
	if name, ok := errors.AsType[*net.DNSError](err); ok && name.IsNotFound {
		return false
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" { // a TLS alert
		return false
	}
	_, certificate := errors.AsType[*certificateError](err)
	return !certificate
}

// sleep waits; false: ctx ends before.
func sleep(ctx context.Context, wait time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < wait {
		return false
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// pause waits for as many seconds as the server says; false: there is no such number, or ctx does not last as long.
func pause(ctx context.Context, seconds string) bool {
	n, err := strconv.ParseUint(seconds, 10, 16)
	return err == nil && sleep(ctx, time.Duration(n)*time.Second)
}
