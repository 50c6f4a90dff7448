package client

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/culvert-net/culvert/api"
)

// ServerName is the DNS name in every server's certificate. The client demands it whatever address it dials, so that one
// CA serves Unix sockets, addresses behind NAT and names alike.
const ServerName = "server.culvert.internal"

// Header names of the API.
const (
	HeaderIdempotencyKey = "Idempotency-Key"
	HeaderAccount        = "Culvert-Account"
	HeaderRevision       = "Culvert-Revision"
	HeaderDryRun         = "Culvert-Dry-Run"
	HeaderRequestID      = "Culvert-Request-Id"
)

// maxBody bounds what the client reads of an answer that is not a stream, in bytes.
const maxBody = 64 << 20

// Config says where the server is and who calls.
type Config struct {
	// Address is "https://HOST:PORT", "HOST:PORT" or "unix:/PATH".
	Address string
	// CA is the server's CA certificate in PEM, as in DATA-DIR/ca.pem.
	CA []byte
	// CAPin is the SHA-256 of the CA certificate in hexadecimal; it serves where CA is not at hand yet (a node that joins).
	CAPin string
	// APIKey authenticates a user; empty for a node.
	APIKey string
	// Account, id or name: whose behalf an administrator acts on. Others leave it empty.
	Account string
	// Certificate returns the node's current certificate at each handshake; nil for a user.
	Certificate func() (*tls.Certificate, error)
	// Timeout of a call that is not a stream; default 30 s.
	Timeout time.Duration
	// UserAgent defaults to "culvert".
	UserAgent string
}

// Client talks to one server. It is safe for concurrent use.
type Client struct {
	cfg  Config
	base string
	http *http.Client
}

// New checks the configuration. It does not connect.
func New(cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "culvert"
	}
	for what, value := range map[string]string{"API key": cfg.APIKey, "account": cfg.Account} {
		if strings.ContainsFunc(value, unicode.IsControl) {
			return nil, fmt.Errorf("%s: it has a line end or another control character", what)
		}
	}
	network, target, base, err := splitAddress(cfg.Address)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := tlsConfig(cfg)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, target)
		},
		TLSClientConfig:       tlsConfig,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConns:          8,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       90 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
	}
	return &Client{cfg: cfg, base: base, http: &http.Client{Transport: transport}}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func splitAddress(address string) (network, target, base string, err error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		if !strings.HasPrefix(path, "/") {
			return "", "", "", fmt.Errorf("server address %q: a unix socket needs an absolute path, such as unix:/run/culvert/server.sock", address)
		}
		return "unix", path, "https://" + ServerName, nil
	}
	host := strings.TrimSuffix(strings.TrimPrefix(address, "https://"), "/")
	if strings.Contains(host, "://") {
		return "", "", "", fmt.Errorf("server address %q: the scheme must be https or unix", address)
	}
	if strings.Contains(host, "@") { // which may be a password: it is not repeated
		return "", "", "", errors.New("server address: it must not have a user in it")
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return "", "", "", fmt.Errorf("server address %q: write https://HOST:PORT or unix:/PATH: %w", address, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || name == "" || strings.ContainsAny(name, "/?# ") {
		return "", "", "", fmt.Errorf("server address %q: write https://HOST:PORT, the port from 1 to 65535", address)
	}
	return "tcp", host, "https://" + host, nil
}

func tlsConfig(cfg Config) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: ServerName}
	if cfg.Certificate != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cfg.Certificate() }
	}
	// Chains are verified below: against the pinned CA where there is no pool, and at a time of our choice.
	c.InsecureSkipVerify = true
	switch {
	case len(cfg.CA) > 0:
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(cfg.CA) {
			return nil, errors.New("server CA: no PEM certificate found; give the server's DATA-DIR/ca.pem")
		}
		c.VerifyConnection = func(s tls.ConnectionState) error { return lasting(verifyServer(s, roots, time.Now())) }
	case cfg.CAPin != "":
		pin, err := hex.DecodeString(cfg.CAPin)
		if err != nil || len(pin) != sha256.Size {
			return nil, fmt.Errorf("server CA pin %q: not a SHA-256 in hexadecimal", cfg.CAPin)
		}
		c.VerifyConnection = func(s tls.ConnectionState) error { return lasting(verifyPinned(s, pin, time.Now())) }
	default:
		return nil, errors.New("server CA: missing; give the server's DATA-DIR/ca.pem, or a join token with a pin")
	}
	return c, nil
}

// verifyPinned accepts a chain that leads to a certificate with the given SHA-256 and names ServerName.
func verifyPinned(s tls.ConnectionState, pin []byte, now time.Time) error {
	roots := x509.NewCertPool()
	found := false
	for _, cert := range s.PeerCertificates {
		if sum := sha256.Sum256(cert.Raw); bytes.Equal(sum[:], pin) {
			roots.AddCert(cert)
			found = true
		}
	}
	if !found {
		return errors.New("server certificate: it is not from the CA that the token pins; is this the right server?")
	}
	return verifyServer(s, roots, now)
}

// verifyServer accepts a chain that leads to one of the roots and names ServerName. A certificate that is not valid yet says
// nothing but that a clock is wrong, and a machine that boots with a wrong one is to find its server all the same: the chain is
// looked at as of its beginning then. One that has ended is refused.
func verifyServer(s tls.ConnectionState, roots *x509.CertPool, now time.Time) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("server certificate: there is none")
	}
	leaf, inter, at := s.PeerCertificates[0], x509.NewCertPool(), now
	for _, cert := range s.PeerCertificates {
		if at.Before(cert.NotBefore) {
			at = cert.NotBefore
		}
		inter.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, DNSName: ServerName, CurrentTime: at})
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return fmt.Errorf("server certificate: it ended at %s, and this machine's clock says %s: set the clock that is wrong, here or "+
			"at the server", invalid.Cert.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	return nil
}

// Option changes one call.
type Option func(*callOptions)

type callOptions struct {
	query  url.Values
	header http.Header
	ownKey bool // a creation: the client makes an idempotency key where the caller gives none
}

// WithDryRun asks the server to check everything and change nothing. The answer is what would have been made.
func WithDryRun() Option { return func(o *callOptions) { o.query.Set("dryRun", "true") } }

// WithIdempotencyKey makes a change repeatable: the same key and body within 24 hours give the first answer again. The client then
// sends it again when a connection breaks.
func WithIdempotencyKey(key string) Option {
	return func(o *callOptions) { o.header.Set(HeaderIdempotencyKey, key) }
}

// WithVPC filters a list by VPC, id or name.
func WithVPC(vpc string) Option { return func(o *callOptions) { o.query.Set("vpc", vpc) } }

// WithTargetGroup filters a list by target group, id or name.
func WithTargetGroup(group string) Option {
	return func(o *callOptions) { o.query.Set("targetGroup", group) }
}

// WithAccount acts on behalf of another account than Config.Account says; for administrators.
func WithAccount(account string) Option {
	return func(o *callOptions) { o.header.Set(HeaderAccount, account) }
}

func segment(s string) string { return url.PathEscape(s) }

// call sends one request and decodes the answer into out unless that is nil. Where it does no harm it sends it again.
func (c *Client) call(ctx context.Context, method, path string, in, out any, opts ...Option) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	r, err := c.prepare(method, path, in, opts...)
	if err != nil {
		return err
	}
	for wait := firstPause; ; wait *= 2 {
		err := c.once(ctx, r, out)
		switch {
		case err == nil:
			return nil
		case r.dropKey(err):
			continue
		case !r.repeatable() || wait > lastPause || !passing(err):
			return err
		case !sleep(ctx, wait/2+rand.N(wait/2)):
			return err
		}
	}
}

// once sends one request and decodes the answer.
func (c *Client) once(ctx context.Context, r *request, out any) error {
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return &onTheWay{fmt.Errorf("%s %s: read answer: %w", r.method, r.path, err)}
	}
	if out == nil || len(body) == 0 {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s %s: decode answer: %w", r.method, r.path, err)
	}
	return nil
}

// prepare puts together what is sent.
func (c *Client) prepare(method, path string, in any, opts ...Option) (*request, error) {
	o := callOptions{query: url.Values{}, header: http.Header{}}
	if c.cfg.Account != "" {
		o.header.Set(HeaderAccount, c.cfg.Account)
	}
	for _, f := range opts {
		f(&o)
	}
	r := &request{method: method, path: path, target: c.base + path, header: o.header}
	if o.ownKey && o.header.Get(HeaderIdempotencyKey) == "" && o.query.Get("dryRun") == "" {
		r.ownKey = true
		o.header.Set(HeaderIdempotencyKey, cryptorand.Text())
	}
	switch v := in.(type) {
	case nil:
	case []byte:
		r.body = v
		o.header.Set("Content-Type", "application/x-ndjson")
	default:
		data, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s %s: encode request: %w", method, path, err)
		}
		r.body = data
		o.header.Set("Content-Type", "application/json")
	}
	if len(o.query) > 0 {
		r.target += "?" + o.query.Encode()
	}
	o.header.Set("User-Agent", c.cfg.UserAgent)
	if c.cfg.APIKey != "" {
		o.header.Set("Authorization", "Bearer "+c.cfg.APIKey)
	}
	return r, nil
}

// do sends one request; a status of 400 and above becomes an error. A server that is asked too often says when to come again, and
// do then does, a few times. The caller closes the body.
func (c *Client) do(ctx context.Context, r *request) (*http.Response, error) {
	for tries := 1; ; tries++ {
		req, err := http.NewRequestWithContext(ctx, r.method, r.target, bytes.NewReader(r.body))
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", r.method, r.path, err)
		}
		req.Header = r.header.Clone()
		resp, err := c.http.Do(req)
		if err != nil {
			return nil, &onTheWay{fmt.Errorf("%s %s: %w", r.method, r.path, err)}
		}
		if resp.StatusCode < 400 {
			return resp, nil
		}
		err = readError(resp, r.method, r.path)
		resp.Body.Close()
		if tries == maxTries || resp.StatusCode != http.StatusTooManyRequests || !pause(ctx, resp.Header.Get("Retry-After")) {
			return nil, err
		}
	}
}

func readError(resp *http.Response, method, path string) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "application/json" {
		e := new(api.Error)
		if json.Unmarshal(body, e) == nil && e.Code != "" {
			return e
		}
	}
	return fmt.Errorf("%s %s: status %s: %s", method, path, resp.Status, strings.TrimSpace(string(body)))
}

func get[T any](ctx context.Context, c *Client, path string, opts ...Option) (*T, error) {
	out := new(T)
	return out, c.call(ctx, http.MethodGet, path, nil, out, opts...)
}

func list[T any](ctx context.Context, c *Client, path string, opts ...Option) ([]T, error) {
	var out api.List[T]
	err := c.call(ctx, http.MethodGet, path, nil, &out, opts...)
	return out.Items, err
}

// create is send for what makes a resource: repeatable under a key of the client's own.
func create[T any](ctx context.Context, c *Client, method, path string, in any, opts ...Option) (*T, error) {
	own := func(o *callOptions) { o.ownKey = true }
	return send[T](ctx, c, method, path, in, append(opts[:len(opts):len(opts)], own)...)
}

func send[T any](ctx context.Context, c *Client, method, path string, in any, opts ...Option) (*T, error) {
	out := new(T)
	if err := c.call(ctx, method, path, in, out, opts...); err != nil {
		return nil, err
	}
	return out, nil
}
