package client

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/api"
)

// flaky breaks the connection of the first requests, and keeps what it was sent.
type flaky struct {
	mu     sync.Mutex
	breaks int  // how many more
	full   bool // no room for another answer
	cut    bool // break in the middle of the answer
	keys   []string
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := r.Header.Get(HeaderIdempotencyKey)
	f.keys = append(f.keys, key)
	if f.breaks != 0 {
		f.breaks--
		if f.cut {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "{")
		}
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	if f.full && key != "" {
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"code":"ResourceLimitExceeded","field":"Idempotency-Key","message":"full"}`)
		return
	}
	_, _ = io.WriteString(w, `{}`)
}

func flakyClient(t *testing.T, f *flaky) *Client {
	t.Helper()
	return clientOf(t, f)
}

// clientOf is a client of a server that answers like h.
func clientOf(t *testing.T, h http.Handler) *Client {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13} // HTTP/1.1: a broken connection is one there
	s.StartTLS()
	t.Cleanup(s.Close)
	c, err := New(Config{Address: s.URL, CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})})
	if err != nil {
		t.Fatal(err)
	}
	// The test server's certificate is for example.com; what is verified is another test's business.
	tr := c.http.Transport.(*http.Transport)
	tr.TLSClientConfig.VerifyConnection = nil
	t.Cleanup(c.Close)
	return c
}

// TestRetries: what does no harm is sent again, and nothing else.
func TestRetries(t *testing.T) {
	for name, row := range map[string]struct {
		server *flaky
		call   func(context.Context, *Client) error
		sent   int
		fails  bool
		keyed  bool // every request has one key, the same
	}{
		"a read": {&flaky{breaks: 3}, func(ctx context.Context, c *Client) error { _, err := c.ListVPCs(ctx); return err }, 4, false, false},
		"a read whose answer breaks off": {&flaky{breaks: 1, cut: true}, func(ctx context.Context, c *Client) error {
			_, err := c.Status(ctx)
			return err
		}, 2, false, false},
		"a read without end": {&flaky{breaks: -1}, func(ctx context.Context, c *Client) error { _, err := c.ListVPCs(ctx); return err }, 5, true, false},
		"a creation": {&flaky{breaks: 2}, func(ctx context.Context, c *Client) error {
			_, err := c.CreateVPC(ctx, api.CreateVPCRequest{})
			return err
		}, 3, false, true},
		"a deletion": {&flaky{breaks: 1}, func(ctx context.Context, c *Client) error { _, err := c.DeleteVPC(ctx, "x"); return err }, 1, true, false},
		"a deletion with a key": {&flaky{breaks: 1}, func(ctx context.Context, c *Client) error {
			_, err := c.DeleteVPC(ctx, "x", WithIdempotencyKey("k"))
			return err
		}, 2, false, true},
		"a change": {&flaky{breaks: 1}, func(ctx context.Context, c *Client) error {
			_, err := c.ModifyVPC(ctx, "x", api.ModifyVPCRequest{})
			return err
		}, 1, true, false},
		"a secret": {&flaky{breaks: 1}, func(ctx context.Context, c *Client) error {
			_, err := c.CreateAPIKey(ctx, api.CreateAPIKeyRequest{})
			return err
		}, 1, true, false},
		"a dry run": {&flaky{breaks: 1}, func(ctx context.Context, c *Client) error {
			_, err := c.CreateVPC(ctx, api.CreateVPCRequest{}, WithDryRun())
			return err
		}, 1, true, false},
		"a join": {&flaky{breaks: 1}, func(ctx context.Context, c *Client) error { _, err := c.Join(ctx, api.JoinRequest{}); return err }, 1, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			server := row.server
			err := row.call(t.Context(), flakyClient(t, server))
			server.mu.Lock()
			defer server.mu.Unlock()
			if (err != nil) != row.fails || len(server.keys) != row.sent {
				t.Errorf("sent %d times, want %d; %v", len(server.keys), row.sent, err)
			}
			keys := slices.Compact(server.keys)
			if len(keys) != 1 || (keys[0] != "") != row.keyed {
				t.Errorf("keys %q", server.keys)
			}
		})
	}
}

// TestCreationsHaveKeysOfTheirOwn: or the second would get the first's answer.
func TestCreationsHaveKeysOfTheirOwn(t *testing.T) {
	f := &flaky{}
	c := flakyClient(t, f)
	for range 2 {
		if _, err := c.CreateVPC(t.Context(), api.CreateVPCRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.keys) != 2 || f.keys[0] == "" || f.keys[0] == f.keys[1] {
		t.Errorf("keys %q", f.keys)
	}
}

// TestNoRoomForAnswers: a creation that cannot be made repeatable is made once.
func TestNoRoomForAnswers(t *testing.T) {
	f := &flaky{full: true}
	if _, err := flakyClient(t, f).CreateVPC(t.Context(), api.CreateVPCRequest{}); err != nil || len(f.keys) != 2 || f.keys[1] != "" {
		t.Errorf("keys %q: %v", f.keys, err)
	}
	f = &flaky{full: true}
	_, err := flakyClient(t, f).CreateVPC(t.Context(), api.CreateVPCRequest{}, WithIdempotencyKey("mine"))
	if !errors.Is(err, &api.Error{Code: api.CodeLimitExceeded}) || len(f.keys) != 1 {
		t.Errorf("the caller's key was left out: %q, %v", f.keys, err)
	}
}

// TestRetriesEndWithTheContext, and do not begin a pause that outlasts it.
func TestRetriesEndWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if sleep(ctx, 2*time.Second) || time.Since(began) != 0 {
			t.Errorf("waited %s of a second", time.Since(began))
		}
		if !sleep(ctx, time.Second/2) || time.Since(began) != time.Second/2 {
			t.Errorf("did not wait: %s", time.Since(began))
		}
	})
	f := &flaky{breaks: -1}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := flakyClient(t, f).ListVPCs(ctx); !errors.Is(err, context.Canceled) || len(f.keys) != 0 {
		t.Errorf("sent %d times: %v", len(f.keys), err)
	}
}

// TestWhatPasses tells failures of a connection from those that come again.
func TestWhatPasses(t *testing.T) {
	for name, row := range map[string]struct {
		err  error
		want bool
	}{
		"refused":       {&onTheWay{&url.Error{Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}}, true},
		"broken off":    {&onTheWay{fmt.Errorf("x: %w", io.ErrUnexpectedEOF)}, true},
		"a stream":      {&onTheWay{errors.New("stream error: stream ID 1; INTERNAL_ERROR; received from peer")}, true},
		"too slow":      {&onTheWay{&url.Error{Err: os.ErrDeadlineExceeded}}, false},
		"cancelled":     {&onTheWay{&url.Error{Err: context.Canceled}}, false},
		"an alert":      {&onTheWay{&net.OpError{Op: "remote error", Err: tls.AlertError(42)}}, false},
		"no such name":  {&onTheWay{&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}}, false},
		"a refusal":     {&api.Error{Code: api.CodeUnavailable}, false},
		"a certificate": {&onTheWay{&url.Error{Err: lasting(errors.New("server certificate: there is none"))}}, false},
		"no JSON":       {errors.New("decode answer"), false},
	} {
		if passing(row.err) != row.want {
			t.Errorf("%s: %v", name, !row.want)
		}
	}
}
