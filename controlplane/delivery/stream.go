package delivery

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// post sends batches by HTTP.
type post struct{ url string }

// poster follows no redirections: they would lead to addresses that nobody allowed.
var poster = &http.Client{
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, TLSHandshakeTimeout: 5 * time.Second,
		ResponseHeaderTimeout: stallAfter, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute},
}

// Put posts a batch; any answer of 2xx says that it arrived. The same batch has the same Idempotency-Key.
func (p post) Put(ctx context.Context, o Object, body *Body) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, body)
	if err != nil {
		return err
	}
	r.ContentLength = body.Size
	r.Header.Set("Content-Type", "application/x-ndjson")
	r.Header.Set("Idempotency-Key", o.SHA256)
	r.Header.Set("Culvert-Flow-Log", o.FlowLog)
	answer, err := poster.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10))
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("the stream's receiver answered %s", answer.Status)
	}
	return err
}

// socket sends batches over a connection each. TCP says that they were received when the receiver closes after our end: what it did not
// read by then is sent again.
type socket struct {
	address string
	tls     bool
}

// Put sends a batch, ends the sending direction, and waits until the receiver closes its own.
func (s socket) Put(ctx context.Context, _ Object, body *Body) error {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	var c net.Conn
	var err error
	if s.tls {
		c, err = (&tls.Dialer{NetDialer: dialer, Config: &tls.Config{MinVersion: tls.VersionTLS12}}).DialContext(ctx, "tcp", s.address)
	} else {
		c, err = dialer.DialContext(ctx, "tcp", s.address)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	defer stop()
	if _, err := io.Copy(c, body); err != nil {
		return err
	}
	half, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("the connection cannot end in one direction")
	}
	if err := half.CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	return cmp.Or(err, ctx.Err())
}
