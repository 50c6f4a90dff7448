package controlplane

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

// raw sends requests as they are written, also such as the client would not send.
type raw struct {
	l    *lab
	http *http.Client
}

// rawClient speaks with a node's certificate when one is given.
func (l *lab) rawClient(cert *tls.Certificate) *raw {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(l.info.CA)
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: client.ServerName, RootCAs: roots}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	path := strings.TrimPrefix(l.info.Addresses[0], "unix:")
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}
	l.t.Cleanup(tr.CloseIdleConnections)
	return &raw{l: l, http: &http.Client{Transport: tr}}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// refusal decodes it as an error.
func (a *answer) refusal(t testing.TB) *api.Error {
	t.Helper()
	e := new(api.Error)
	if err := json.Unmarshal(a.body, e); err != nil || e.Code == "" {
		t.Fatalf("status %d, not an error of ours: %q (%v)", a.status, a.body, err)
	}
	if e.GetStatus() != a.status {
		t.Errorf("status %d does not go with the code %s", a.status, e.Code)
	}
	if e.RequestID == "" || e.RequestID != a.header.Get(client.HeaderRequestID) {
		t.Errorf("request id %q in the body, %q in the header", e.RequestID, a.header.Get(client.HeaderRequestID))
	}
	return e
}

// without returns the body less the request id, which differs from request to request.
func (a *answer) withoutID() string {
	var e api.Error
	if json.Unmarshal(a.body, &e) != nil {
		return string(a.body)
	}
	return strings.ReplaceAll(string(a.body), e.RequestID, "")
}

// do sends one request; header is a list of names and values.
func (r *raw) do(method, path, key, body string, header ...string) *answer {
	r.l.t.Helper()
	req, err := http.NewRequestWithContext(r.l.ctx(), method, "https://"+client.ServerName+path, bytes.NewReader([]byte(body)))
	if err != nil {
		r.l.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.http.Do(req)
	if err != nil {
		r.l.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		r.l.t.Fatal(err)
	}
	return &answer{resp.StatusCode, resp.Header, data}
}
