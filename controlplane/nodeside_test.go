package controlplane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/ca"
	"github.com/culvert-net/culvert/controlplane/store"
)

// joiner is a client of a machine that knows a token only.
func (l *lab) joiner(token string) *client.Client {
	l.t.Helper()
	c := must(client.New(client.Config{Address: l.info.Addresses[0], CAPin: client.TokenPin(token)}))(l.t)
	l.t.Cleanup(c.Close)
	return c
}

func TestJoin(t *testing.T) {
	l := startLab(t, nil)
	h := l.host("host-a")
	n := l.s.Resources().Nodes[h.id]
	if n.State != api.NodeReady || n.Number != h.join.Number || n.Number == 0 || n.Underlay[0] != "192.0.2.7:51820" || n.Version != "test" ||
		n.GossipPort != api.DefaultGossipPort {
		t.Errorf("%+v", n)
	}
	cert := must(x509.ParseCertificate(h.join.Certificate))(t)
	if ca.Serial(cert) != n.CertificateSerial || !cert.NotAfter.Equal(h.join.NotAfter) || cert.URIs[0].String() != "spiffe://culvert/node/"+h.id {
		t.Errorf("certificate %v", cert.URIs)
	}
	tokens := must(l.admin().ListTokens(l.ctx()))(t)
	if len(tokens) != 1 || tokens[0].UsedBy != h.id {
		t.Errorf("%+v", tokens)
	}
	report := must(l.admin().GetNode(l.ctx(), "host-a"))(t)
	if report.PublicKey == "" || report.Live || report.Status != nil {
		t.Errorf("%+v", report)
	}
	// Who is no administrator learns what it needs to place workloads.
	plain := must(l.as("shop").GetNode(l.ctx(), "host-a"))(t)
	if plain.ID != h.id || plain.State != api.NodeReady || plain.PublicKey != "" || plain.Underlay != nil || plain.Number != 0 || plain.Version != "" {
		t.Errorf("%+v", plain)
	}
}

func TestTokenIsGoodOnce(t *testing.T) {
	l := startLab(t, nil)
	_, r := l.joinRequest("")
	var joined atomic.Int32
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		r := r
		r.Name, r.PublicKey = name, wireKey()
		wg.Go(func() {
			_, err := l.joiner(r.Token).Join(l.ctx(), r)
			if err == nil {
				joined.Add(1)
			} else if !errors.Is(err, &api.Error{Code: api.CodeTokenInvalid}) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if joined.Load() != 1 || len(l.s.Resources().Nodes) != 1 {
		t.Errorf("%d joined, %d nodes", joined.Load(), len(l.s.Resources().Nodes))
	}
	l.check()
}

func TestJoinRefused(t *testing.T) {
	var now atomic.Pointer[time.Time]
	at := time.Now()
	now.Store(&at)
	l := startLab(t, func(c *Config) { c.Now = func() time.Time { return *now.Load() } })
	l.host("host-a")
	revoked := l.host("host-r")
	must(l.admin().RevokeNode(l.ctx(), "host-r"))(t)
	bound := must(l.admin().CreateToken(l.ctx(), api.CreateTokenRequest{NodeName: "host-b"}))(t)
	_, good := l.joinRequest("host-b")
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)
	p384CSR := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p384))(t)
	first, rest, _ := strings.Cut(good.Token, ".")
	for name, c := range map[string]struct {
		change func(*api.JoinRequest)
		code   api.ErrorCode
		field  string
	}{
		"another secret":       {func(r *api.JoinRequest) { r.Token = first + ".x" + rest }, api.CodeTokenInvalid, "token"},
		"no such token":        {func(r *api.JoinRequest) { r.Token = "token-00000000000000000." + rest }, api.CodeTokenInvalid, "token"},
		"a token for another":  {func(r *api.JoinRequest) { r.Token, r.Name = bound.Secret, "host-c" }, api.CodeTokenInvalid, "name"},
		"a name that is taken": {func(r *api.JoinRequest) { r.Name = "host-a" }, api.CodeDuplicateName, "name"},
		"no name":              {func(r *api.JoinRequest) { r.Name = "" }, api.CodeInvalidParameter, "name"},
		"no request":           {func(r *api.JoinRequest) { r.CSR = []byte("x") }, api.CodeInvalidParameter, "csr"},
		"a weak key":           {func(r *api.JoinRequest) { r.CSR = p384CSR }, api.CodeInvalidParameter, "csr"},
		"no WireGuard key":     {func(r *api.JoinRequest) { r.PublicKey = "x" }, api.CodeInvalidParameter, "publicKey"},
		"a revoked key":        {func(r *api.JoinRequest) { r.PublicKey = l.s.Resources().Nodes[revoked.id].PublicKey }, api.CodeInvalidParameter, "publicKey"},
		"a name, no address":   {func(r *api.JoinRequest) { r.Underlay = []string{"host.example"} }, api.CodeInvalidParameter, "underlayAddresses"},
		"no address, no net":   {func(r *api.JoinRequest) { r.Underlay = nil }, api.CodeUnderlayAddressMissing, "underlayAddresses"},
		"a long version":       {func(r *api.JoinRequest) { r.Version = strings.Repeat("x", 100) }, api.CodeInvalidParameter, "version"},
	} {
		r := good
		c.change(&r)
		before := l.s.Resources()
		_, err := l.joiner(good.Token).Join(l.ctx(), r)
		if e := wantCode(t, err, c.code); e.Field != c.field || e.Remedy == "" {
			t.Errorf("%s: %v", name, e)
		}
		if l.s.Resources() != before {
			t.Errorf("%s: something changed", name)
		}
	}
	// None of it used the token up; time does.
	later := at.Add(api.DefaultTokenTTL * time.Second)
	now.Store(&later)
	_, err := l.joiner(good.Token).Join(l.ctx(), good)
	wantCode(t, err, api.CodeTokenInvalid)
	now.Store(&at)
	must(l.joiner(good.Token).Join(l.ctx(), good))(t)
	must(l.joiner(bound.Secret).Join(l.ctx(), func() api.JoinRequest {
		_, r := l.joinRequest("host-b")
		r.Token = bound.Secret
		must(l.admin().RevokeNode(l.ctx(), "host-b"))(t) // a name is free again once its node is revoked
		return r
	}()))(t)
	l.check()
}

func TestUnderlayAddressFromTheConnection(t *testing.T) {
	l := startLab(t, func(c *Config) { c.Listen = append(c.Listen, "127.0.0.1:0") })
	_, r := l.joinRequest("host-a")
	r.Underlay, r.WireGuardPort = nil, 4000
	c := must(client.New(client.Config{Address: l.info.Addresses[1], CAPin: client.TokenPin(r.Token)}))(t)
	defer c.Close()
	_, err := c.Join(l.ctx(), r) // the server sees 127.0.0.1, where no other node would reach this one
	if e := wantCode(t, err, api.CodeInvalidParameter); e.Field != "underlayAddresses" || !strings.Contains(e.Message, "127.0.0.1:4000") {
		t.Error(e)
	}
	_, err = l.joiner(r.Token).Join(l.ctx(), r) // over a Unix socket it sees none
	wantCode(t, err, api.CodeUnderlayAddressMissing)
	answer := l.joinFrom("::ffff:192.0.2.9", r)
	if u := l.s.Resources().Nodes[answer.Node].Underlay; len(u) != 1 || u[0] != "192.0.2.9:4000" {
		t.Errorf("%v", u)
	}
}

func TestAPinOfAnotherServerIsNoServer(t *testing.T) {
	l := startLab(t, nil)
	_, r := l.joinRequest("host-a")
	parts := strings.Split(r.Token, ".")
	wrong := parts[0] + "." + parts[1] + "." + strings.Repeat("0", 64)
	if _, err := l.joiner(wrong).Join(l.ctx(), r); err == nil || errors.Is(err, &api.Error{Code: api.CodeTokenInvalid}) {
		t.Errorf("got %v, want a refusal by the client", err)
	}
}

func TestRenew(t *testing.T) {
	var now atomic.Pointer[time.Time]
	at := time.Now()
	now.Store(&at)
	l := startLab(t, func(c *Config) { c.Now = func() time.Time { return *now.Load() } })
	h := l.host("host-a")
	old := *l.s.Resources().Nodes[h.id]
	key, csr := testCSR(t)
	answer := must(h.Renew(l.ctx(), api.RenewRequest{CSR: csr, Underlay: []string{"192.0.2.9:1", "2001:db8::1"}, WireGuardPort: 7}))(t)
	n := l.s.Resources().Nodes[h.id]
	if answer.Node != h.id || n.CertificateSerial == old.CertificateSerial || n.PublicKey != old.PublicKey || n.Version != old.Version ||
		len(n.Underlay) != 2 || n.Underlay[0] != "192.0.2.9:1" || n.Underlay[1] != "[2001:db8::1]:7" {
		t.Errorf("%+v", n)
	}
	// With an expired certificate a node can renew, and nothing else.
	next := l.hostWith(answer, key)
	later := answer.NotAfter.Add(time.Hour)
	now.Store(&later)
	wantCode(t, next.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id}), api.CodeCertificateInvalid)
	key, csr = testCSR(t)
	answer = must(next.Renew(l.ctx(), api.RenewRequest{CSR: csr}))(t)
	if err := l.hostWith(answer, key).ReportStatus(l.ctx(), api.NodeStatus{Node: h.id}); err != nil {
		t.Error(err)
	}
	// For a while. (Asked of the server itself: its own certificate would be too new for a client of today.)
	tooLate := answer.NotAfter.Add(ca.RenewalGrace + time.Hour)
	now.Store(&tooLate)
	cert := must(x509.ParseCertificate(answer.Certificate))(t)
	asked := &http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}}
	if e := l.s.identify(&caller{}, asked, ca.RenewalGrace); e == nil || e.Code != api.CodeCertificateInvalid {
		t.Errorf("%v", e)
	}
}

// renewed asks for a new certificate and returns the node as it is with that.
func (l *lab) renewed(h *host) *host {
	l.t.Helper()
	key, csr := testCSR(l.t)
	return l.hostWith(must(h.Renew(l.ctx(), api.RenewRequest{CSR: csr}))(l.t), key)
}

func TestAReplacedCertificateIsGoodNoMore(t *testing.T) {
	l := startLab(t, nil)
	first := l.host("host-a")
	report := func(h *host) error { return h.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id}) }
	lost := l.renewed(first) // the answer never comes
	if err := report(first); err != nil {
		t.Fatalf("a lost answer locks the node out: %v", err)
	}
	second := l.renewed(first)
	if e := wantCode(t, report(lost), api.CodeCertificateInvalid); e.Remedy == "" {
		t.Errorf("%v", e)
	}
	views, ended := first.views(t)
	until(t, views, "a view", anyView)
	if err := report(second); err != nil {
		t.Fatal(err)
	}
	if n := l.s.Resources().Nodes[first.id]; n.PreviousSerial != "" {
		t.Errorf("%+v", n)
	}
	wantCode(t, report(first), api.CodeCertificateInvalid)
	_, csr := testCSR(t)
	_, err := first.Renew(l.ctx(), api.RenewRequest{CSR: csr})
	wantCode(t, err, api.CodeCertificateInvalid)
	// What was opened with it ends, too.
	select {
	case <-ended:
	case <-time.After(75 * time.Second):
		t.Error("the stream outlives its certificate")
	}
	if err := report(l.renewed(second)); err != nil {
		t.Error(err)
	}
	l.check()
	retired, refused := 0, 0
	for _, e := range l.audited() {
		if e.Resource == first.id && e.Action == "retire-certificate" {
			retired++
		}
		if e.Resource == first.id && e.Actor == first.id && e.Outcome == string(api.CodeCertificateInvalid) && e.Source != "" {
			refused++
		}
	}
	if retired != 2 || refused < 2 {
		t.Errorf("%d events of retirement, %d of refusal", retired, refused)
	}
}

// A server that boots with its clock far back goes on with its nodes, and what it certifies is still good when the clock is right.
func TestServersClockWentBack(t *testing.T) {
	var now atomic.Pointer[time.Time]
	at, back := time.Now(), time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	now.Store(&at)
	mem := store.NewMem()
	var logged strings.Builder
	config := func(c *Config) {
		c.Store, c.Now = mem, func() time.Time { return *now.Load() }
		c.Log = slog.New(slog.NewTextHandler(&logged, nil))
	}
	l := startLab(t, config)
	h := l.host("host-a")
	l.stop()
	if strings.Contains(logged.String(), "clock") {
		t.Errorf("logged %s", logged.String())
	}

	now.Store(&back)
	again := startLab(t, config)
	as := again.hostWith(h.join, h.cert.PrivateKey.(*ecdsa.PrivateKey))
	if err := as.ReportStatus(again.ctx(), api.NodeStatus{Node: h.id}); err != nil {
		t.Errorf("a node of before: %v", err)
	}
	renewed := again.renewed(as)
	again.stop()
	if !strings.Contains(logged.String(), "this machine's clock is behind what the server has written already") {
		t.Errorf("nothing is said of it: %s", logged.String())
	}

	now.Store(&at)
	last := startLab(t, config)
	as = last.hostWith(renewed.join, renewed.cert.PrivateKey.(*ecdsa.PrivateKey))
	if err := as.ReportStatus(last.ctx(), api.NodeStatus{Node: h.id}); err != nil {
		t.Errorf("what was certified by the wrong clock: %v", err)
	}
}

// A server that ran with its clock years ahead dates certificates by the right one again.
func TestServersClockWasAhead(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"a year": 365 * 24 * time.Hour, "beyond the CA's end": 21 * 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			var now atomic.Pointer[time.Time]
			at := time.Now()
			later := at.Add(ahead)
			mem := store.NewMem()
			var logged strings.Builder
			config := func(c *Config) {
				c.Store, c.Now = mem, func() time.Time { return *now.Load() }
				c.Log = slog.New(slog.NewTextHandler(&logged, nil))
			}
			now.Store(&at)
			first := startLab(t, config)
			h := first.host("host-a")
			first.stop()
			now.Store(&later)
			wrong := startLab(t, config)
			must(wrong.s.store.Txn(wrong.ctx(), func(tx *store.Tx) error {
				tx.Audit(api.AuditEvent{At: later, Actor: actorSystem, Action: "test", Outcome: outcomeSuccess})
				return nil
			}))(t)
			wrong.stop()

			now.Store(&at)
			l := startLab(t, config)
			renewed := l.renewed(l.hostWith(h.join, h.cert.PrivateKey.(*ecdsa.PrivateKey)))
			if end := at.Add(ca.NodeLifetime); renewed.join.NotAfter.After(end) {
				t.Errorf("the certificate of a node ends at %s, not at %s", renewed.join.NotAfter, end)
			}
			if err := renewed.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id}); err != nil {
				t.Error(err)
			}
			l.stop()
			if !strings.Contains(logged.String(), "dated far ahead of this machine's clock") {
				t.Errorf("nothing is said of it: %s", logged.String())
			}
		})
	}
}

func TestDatingFloor(t *testing.T) {
	began := time.Now()
	key, cert, err := ca.Create(began)
	if err != nil {
		t.Fatal(err)
	}
	authority := must(ca.Load(key, cert))(t)
	const day = 24 * time.Hour
	for _, c := range []struct {
		name               string
		now, written, want time.Time
	}{
		{"the clock goes on", began.Add(2 * day), began.Add(day), began.Add(day)},
		{"a little behind", began.Add(day), began.Add(30 * day), began.Add(30 * day)},
		{"far behind", began.Add(day), began.Add(40 * day), time.Time{}},
		{"written beyond the CA's end", began.Add(day), began.Add(ca.CALifetime + day), time.Time{}},
		{"before there was a CA", began.Add(-9000 * day), began.Add(40 * day), began.Add(40 * day)},
		{"neither is possible", began.Add(-day), began.Add(ca.CALifetime + day), authority.NotBefore()},
	} {
		if got := datingFloor(c.now, c.written, authority); !got.Equal(c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// The newest certificate was never used, and meanwhile the one before has expired: the node was off.
func TestALostAnswerAndALongNight(t *testing.T) {
	var now atomic.Pointer[time.Time]
	at := time.Now()
	now.Store(&at)
	l := startLab(t, func(c *Config) { c.Now = func() time.Time { return *now.Load() } })
	h := l.host("host-a")
	l.renewed(h)
	later := h.join.NotAfter.Add(time.Hour)
	now.Store(&later)
	wantCode(t, h.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id}), api.CodeCertificateInvalid)
	if err := l.renewed(h).ReportStatus(l.ctx(), api.NodeStatus{Node: h.id}); err != nil {
		t.Error(err)
	}
}

func TestForeignCertificateIsNobody(t *testing.T) {
	l, other := startLab(t, nil), startLab(t, nil)
	h := other.host("host-a")
	l.host("host-a")
	a := l.rawClient(h.cert).do("POST", "/v1/node/status", "", `{}`)
	if e := a.refusal(t); e.Code != api.CodeCertificateInvalid {
		t.Errorf("%v", e)
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	self := selfSigned(t, key, "spiffe://culvert/node/"+find1(l.s.Resources().Nodes, "host-a").ID)
	if e := l.rawClient(self).do("POST", "/v1/node/renew", "", `{}`).refusal(t); e.Code != api.CodeCertificateInvalid {
		t.Errorf("%v", e)
	}
	if a.status != http.StatusUnauthorized {
		t.Errorf("status %d", a.status)
	}
}

func TestStatusIsForOneself(t *testing.T) {
	l := startLab(t, nil)
	a, b := l.host("host-a"), l.host("host-b")
	shop := l.as("shop")
	l.network(shop, "shop")
	e := must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Name: "cart", Node: "host-a"}))(t)
	wantCode(t, b.ReportStatus(l.ctx(), api.NodeStatus{Node: a.id, Revision: 99}), api.CodeUnauthorized)
	// What a node says of another's interface is not believed.
	if err := b.ReportStatus(l.ctx(), api.NodeStatus{Node: b.id, Attached: []string{e.ID}}); err != nil {
		t.Fatal(err)
	}
	if must(shop.GetENI(l.ctx(), "cart"))(t).Attached {
		t.Error("host-b attached what host-a hosts")
	}
	if err := a.ReportStatus(l.ctx(), api.NodeStatus{Node: a.id, Revision: 5, Generation: 2, Attached: []string{e.ID}, Errors: []string{"x"}}); err != nil {
		t.Fatal(err)
	}
	if !must(shop.GetENI(l.ctx(), "cart"))(t).Attached || !must(shop.ListENIs(l.ctx()))(t)[0].Attached {
		t.Error("host-a attached it")
	}
	// In use: not to be deleted or moved.
	_, err := shop.DeleteENI(l.ctx(), "cart")
	wantCode(t, err, api.CodeENIInUse)
	_, err = shop.BindENI(l.ctx(), "cart", "host-b")
	wantCode(t, err, api.CodeENIInUse)
	r := must(l.admin().GetNode(l.ctx(), "host-a"))(t)
	if !r.Live || r.Status.Revision != 5 || r.Status.Generation != 2 || r.Status.SeenAt.IsZero() || r.Status.Errors[0] != "x" {
		t.Errorf("%+v", r)
	}
}

func TestNodesLife(t *testing.T) {
	l := startLab(t, func(c *Config) { c.Tick = 20 * time.Millisecond })
	h := l.host("host-a")
	l.host("host-b")
	shop, admin := l.as("shop"), l.admin()
	l.network(shop, "shop")
	must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Name: "cart", Node: "host-a"}))(t)
	if err := h.ReportStatus(l.ctx(), api.NodeStatus{Node: h.id, Revision: 1}); err != nil {
		t.Fatal(err)
	}
	if n := must(admin.DrainNode(l.ctx(), "host-a"))(t); n.State != api.NodeDraining {
		t.Errorf("%+v", n)
	}
	_, err := shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Node: "host-a"})
	wantCode(t, err, api.CodeIncorrectState)
	if n := must(admin.UndrainNode(l.ctx(), "host-a"))(t); n.State != api.NodeReady {
		t.Errorf("%+v", n)
	}
	must(admin.RevokeNode(l.ctx(), "host-a"))(t)
	_, err = admin.UndrainNode(l.ctx(), "host-a")
	wantCode(t, err, api.CodeIncorrectState)
	_, err = admin.DeleteNode(l.ctx(), "host-a")
	wantCode(t, err, api.CodeDependencyViolation)
	must(shop.BindENI(l.ctx(), "cart", "host-b"))(t)
	l.check()
	must(admin.DeleteNode(l.ctx(), h.id))(t)
	l.check()
	l.eventually("its status to be forgotten", func() bool {
		data := must(l.s.store.Get(l.ctx(), "status/"+h.id))(t)
		_, st := l.s.hub.get(h.id, time.Now())
		return data == nil && st == nil
	})
}

func TestRotateKey(t *testing.T) {
	l := startLab(t, nil)
	a, b := l.host("host-a"), l.host("host-b")
	shop := l.as("shop")
	l.network(shop, "shop")
	for _, node := range []string{"host-a", "host-b"} {
		must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Node: node}))(t)
	}
	before := *l.s.Resources().Nodes[a.id]
	of := func(v *api.View) string {
		if len(v.Peers) == 0 {
			return ""
		}
		return v.Peers[0].PublicKey
	}
	own, _ := a.views(t)
	peers, _ := b.views(t)
	until(t, peers, "the first key at the peer", func(v *api.View) bool { return of(v) == before.PublicKey })
	until(t, own, "the first key at the node", func(v *api.View) bool { return v.Node.PublicKey == before.PublicKey })

	next := wireKey()
	r := must(a.RotateKey(l.ctx(), next))(t)
	v := until(t, peers, "the next key at the peer", func(v *api.View) bool { return of(v) == next })
	if r.Revision == 0 || v.Revision < r.Revision {
		t.Errorf("revision %d, the peer's view is of %d", r.Revision, v.Revision)
	}
	until(t, own, "the next key at the node", func(v *api.View) bool { return v.Node.PublicKey == next })
	n := *l.s.Resources().Nodes[a.id]
	if n.CertificateSerial != before.CertificateSerial || n.Number != before.Number || n.Underlay[0] != before.Underlay[0] {
		t.Errorf("more than the key changed: %+v, was %+v", n, before)
	}
	must(a.RotateKey(l.ctx(), next))(t) // the answer was lost

	_, err := a.RotateKey(l.ctx(), l.s.Resources().Nodes[b.id].PublicKey)
	if e := wantCode(t, err, api.CodeInvalidParameter); e.Field != "publicKey" || e.Remedy == "" {
		t.Errorf("another node's key: %v", e)
	}
	must(l.admin().RevokeNode(l.ctx(), "host-a"))(t)
	_, err = a.RotateKey(l.ctx(), wireKey())
	wantCode(t, err, api.CodeNodeRevoked)
	if got := l.s.Resources().Nodes[a.id].PublicKey; got != next {
		t.Errorf("a refused rotation changed the key to %s", got)
	}
	done := 0
	for _, e := range l.audited() {
		if e.Action == "rotate-key" && e.Actor == a.id && e.Resource == a.id && e.Outcome == outcomeSuccess {
			done++
		}
	}
	if done != 2 {
		t.Errorf("%d audit events of rotations, want 2", done)
	}
	l.check()
}

func TestLeave(t *testing.T) {
	l := startLab(t, nil)
	a, b := l.host("host-a"), l.host("host-b")
	shop := l.as("shop")
	l.network(shop, "shop")
	eni := must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Node: "host-a"}))(t)
	must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Node: "host-b"}))(t)
	views, _ := b.views(t)
	gossip := until(t, views, "a gossip key", func(v *api.View) bool { return len(v.GossipKeys) > 0 }).GossipKeys[0]

	_, err := a.Leave(l.ctx(), false)
	e := wantCode(t, err, api.CodeDependencyViolation)
	if !strings.Contains(e.Message, eni.ID) || !strings.Contains(e.Remedy, "--force") || l.s.Resources().Nodes[a.id].State != api.NodeReady {
		t.Errorf("with an interface: %v; the node is %s", e, l.s.Resources().Nodes[a.id].State)
	}
	must(shop.DeleteENI(l.ctx(), eni.ID))(t)
	if r := must(a.Leave(l.ctx(), false))(t); !r.Forgotten || r.Revision == 0 || l.s.Resources().Nodes[a.id] != nil {
		t.Errorf("without: %+v", r)
	}
	for _, s := range l.s.Resources().Subnets {
		if slices.ContainsFunc(s.Blocks, func(b api.Block) bool { return b.Node == a.id }) {
			t.Errorf("subnet %s still lends to it", s.ID)
		}
	}
	until(t, views, "a gossip key that it does not know", func(v *api.View) bool { return !slices.Equal(v.GossipKeys[0], gossip) })
	_, err = a.Leave(l.ctx(), true) // the answer was lost
	wantCode(t, err, api.CodeNodeForgotten)

	if r := must(b.Leave(l.ctx(), true))(t); r.Forgotten || l.s.Resources().Nodes[b.id].State != api.NodeRevoked {
		t.Errorf("by force: %+v, %+v", r, l.s.Resources().Nodes[b.id])
	}
	_, err = b.Leave(l.ctx(), true)
	wantCode(t, err, api.CodeNodeRevoked)
	outcomes := map[string][]string{}
	for _, e := range l.audited() {
		if e.Action == "leave" {
			outcomes[e.Actor] = append(outcomes[e.Actor], e.Outcome)
			if e.Resource != e.Actor && e.Role != api.RoleAnonymous {
				t.Errorf("audit event of %q", e.Resource)
			}
		}
	}
	if got := outcomes[a.id]; len(got) < 2 || got[0] != string(api.CodeDependencyViolation) || got[1] != outcomeSuccess {
		t.Errorf("audit events of host-a: %v", got)
	}
	if !slices.Contains(outcomes[b.id], outcomeSuccess) {
		t.Errorf("audit events of host-b: %v", outcomes[b.id])
	}
	l.host("host-a") // the name is free
	l.check()
}

func selfSigned(t *testing.T, key *ecdsa.PrivateKey, uri string) *tls.Certificate {
	t.Helper()
	keyPEM, certPEM, err := ca.Create(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a := must(ca.Load(keyPEM, certPEM))(t)
	node := strings.TrimPrefix(uri, "spiffe://culvert/node/")
	cert := must(a.SignNode(node, key.Public(), time.Now()))(t)
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func TestWireKeyIsOneNodes(t *testing.T) {
	l := startLab(t, nil)
	h := l.host("host-a")
	_, r := l.joinRequest("host-b")
	r.PublicKey = l.s.Resources().Nodes[h.id].PublicKey
	_, err := l.joiner(r.Token).Join(l.ctx(), r)
	if e := wantCode(t, err, api.CodeInvalidParameter); e.Field != "publicKey" {
		t.Errorf("%v", e)
	}
	// The same 32 bytes, written otherwise, are the same key: the last digit has two bits to spare.
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	last := strings.IndexByte(digits, r.PublicKey[42])
	r.PublicKey = r.PublicKey[:42] + digits[last|1:last|1+1] + "="
	_, err = l.joiner(r.Token).Join(l.ctx(), r)
	wantCode(t, err, api.CodeInvalidParameter)
}
