package controlplane

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/audit/treelog"
	"github.com/culvert-net/culvert/controlplane/store"
)

// lab is a running server with an administrator's key.
type lab struct {
	t        testing.TB
	s        *Server
	info     Info
	adminKey string
	keys     map[string]string // by account name
	stop     func()
	mu       sync.Mutex
	clients  []*client.Client
	// complaints are of exchanges that are not as /openapi.json says.
	complaining sync.Mutex
	complaints  []string
	// lose is how many answers to changes get lost on their way.
	lose atomic.Int32
}

// startLab runs a server on a Unix socket until the test ends; change may adjust its configuration.
func startLab(t testing.TB, change func(*Config)) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "culvert") // a test's own directory can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{t: t, keys: map[string]string{}}
	ready := make(chan Info, 1)
	cfg := Config{
		DataDir: dir, Listen: []string{"unix:" + filepath.Join(dir, "s.sock")}, Store: store.NewMem(), Version: "test",
		Ready: func(i Info) { ready <- i }, AdminKey: func(k string) { l.adminKey = k }, unlimited: true,
	}
	cfg.Tree = treelog.NewMem("culvert.internal/test", nil) // nil, which a test may make it: on the disk
	if change != nil {
		change(&cfg)
	}
	l.s = New(cfg)
	l.s.handler = must(contractOf(l.s))(t).wrap(l.losing(l.s.handler), func(complaint string) {
		l.complaining.Lock()
		defer l.complaining.Unlock()
		l.complaints = append(l.complaints, complaint)
	})
	t.Cleanup(func() {
		l.complaining.Lock()
		defer l.complaining.Unlock()
		for _, c := range l.complaints {
			t.Errorf("contract: %s", c)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.s.Run(ctx) }()
	stopped := false
	l.stop = func() {
		if stopped {
			return
		}
		stopped = true
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, c := range l.clients { // a server waits a second for HTTP/2 connections that stay open
			c.Close()
		}
		cancel()
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("server: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the server does not stop")
		}
	}
	t.Cleanup(l.stop)
	select {
	case l.info = <-ready:
	case err := <-done:
		t.Fatalf("server: %v", err)
	case <-time.After(60 * time.Second):
		t.Fatal("the server does not start")
	}
	return l
}

// losing breaks connections off after the server has done what was asked.
func (l *lab) losing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || l.lose.Load() == 0 {
			next.ServeHTTP(w, r)
			return
		}
		l.lose.Add(-1)
		next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
}

func (l *lab) client(key, account string) *client.Client {
	l.t.Helper()
	c, err := client.New(client.Config{Address: l.info.Addresses[0], CA: l.info.CA, APIKey: key, Account: account})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(c.Close)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clients = append(l.clients, c)
	return c
}

// admin is a client of the administrator; as one of an account, which is made with a key when it does not exist.
func (l *lab) admin() *client.Client { return l.client(l.adminKey, "") }

func (l *lab) as(account string) *client.Client {
	l.t.Helper()
	if l.keys[account] == "" {
		a := must(l.admin().CreateAccount(l.ctx(), api.CreateAccountRequest{Name: account, Domains: []string{account + ".internal"}}))(l.t)
		k := must(l.admin().CreateAPIKey(l.ctx(), api.CreateAPIKeyRequest{Account: a.ID}))(l.t)
		l.keys[account] = k.Secret
	}
	return l.client(l.keys[account], "")
}

func (l *lab) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	l.t.Cleanup(cancel)
	return ctx
}

// account is an account's id.
func (l *lab) account(name string) string { return accountByRef(l.s.Resources(), name).ID }

// must fails the test on an error.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// network makes a VPC 10.0.0.0/16 of the given name with two subnets, NAME-a and NAME-b, in the zones a and b.
func (l *lab) network(c *client.Client, name string) *api.VPC {
	l.t.Helper()
	v := must(c.CreateVPC(l.ctx(), api.CreateVPCRequest{Name: name, CIDR: prefix("10.0.0.0/16")}))(l.t)
	must(c.CreateSubnet(l.ctx(), api.CreateSubnetRequest{VPC: name, Name: name + "-a", Zone: "a", CIDR: prefix("10.0.1.0/24")}))(l.t)
	must(c.CreateSubnet(l.ctx(), api.CreateSubnetRequest{VPC: name, Name: name + "-b", Zone: "b", CIDR: prefix("10.0.2.0/24")}))(l.t)
	return v
}

// offer makes a service with a listener at 443, one target, and acceptance required.
func (l *lab) offer(c *client.Client, vpc, name, node string, allowed ...string) *api.Service {
	l.t.Helper()
	e := must(c.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: vpc + "-a", Name: name, Node: node}))(l.t)
	must(c.CreateTargetGroup(l.ctx(), api.CreateTargetGroupRequest{VPC: vpc, Name: name, Protocol: api.TCP, Port: 443,
		Targets: []api.TargetRequest{{ENI: e.ID}}}))(l.t)
	must(c.CreateLoadBalancer(l.ctx(), api.CreateLoadBalancerRequest{VPC: vpc, Name: name,
		Listeners: []api.ListenerRequest{{Protocol: api.TCP, Port: 443, TargetGroup: name}}}))(l.t)
	return must(c.CreateService(l.ctx(), api.CreateServiceRequest{Name: name, LoadBalancers: []string{name}, AcceptanceRequired: true,
		AllowedPrincipals: allowed, PrivateDNSName: name + ".pay.internal"}))(l.t)
}

// host is a machine that joined.
type host struct {
	*client.Client
	id   string
	join *api.JoinResponse
	cert *tls.Certificate
}

// testCSR makes a key and a request for its certification.
func testCSR(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	return key, must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))(t)
}

func wireKey() string { return base64.StdEncoding.EncodeToString(randomBytes(32)) }

// joinRequest asks for a node with a fresh token.
func (l *lab) joinRequest(name string) (*ecdsa.PrivateKey, api.JoinRequest) {
	l.t.Helper()
	token := must(l.admin().CreateToken(l.ctx(), api.CreateTokenRequest{}))(l.t)
	key, csr := testCSR(l.t)
	return key, api.JoinRequest{Token: token.Secret, Name: name, CSR: csr, PublicKey: wireKey(),
		Underlay: []string{"192.0.2.7"}, Version: "test"}
}

func (l *lab) host(name string) *host {
	l.t.Helper()
	key, r := l.joinRequest(name)
	joiner := must(client.New(client.Config{Address: l.info.Addresses[0], CAPin: client.TokenPin(r.Token)}))(l.t)
	defer joiner.Close()
	answer := must(joiner.Join(l.ctx(), r))(l.t)
	return l.hostWith(answer, key)
}

func (l *lab) hostWith(answer *api.JoinResponse, key *ecdsa.PrivateKey) *host {
	cert := &tls.Certificate{Certificate: [][]byte{answer.Certificate}, PrivateKey: key}
	c := must(client.New(client.Config{Address: l.info.Addresses[0], CA: l.info.CA,
		Certificate: func() (*tls.Certificate, error) { return cert, nil }}))(l.t)
	l.t.Cleanup(c.Close)
	return &host{Client: c, id: answer.Node, join: answer, cert: cert}
}

// wantCode checks how something was refused.
func wantCode(t testing.TB, err error, code api.ErrorCode) *api.Error {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want the code %s", err, code)
	}
	if e.Code != code {
		t.Fatalf("got %v, want the code %s", e, code)
	}
	return e
}
