package dns

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/dns/zone"
)

// fakeUpstream is a forwarder on loopback; the server under test reaches it under an address of its own choosing.
type fakeUpstream struct {
	t      testing.TB
	answer func(w miekg.ResponseWriter, q *miekg.Msg)
	roots  *x509.CertPool
	udp    string // loopback addresses
	tcp    string
	tls    string

	mu      sync.Mutex
	asked   []string // network and question of each query
	accepts int      // TLS connections
}

func newUpstream(t testing.TB, answer func(w miekg.ResponseWriter, q *miekg.Msg)) *fakeUpstream {
	t.Helper()
	f := &fakeUpstream{t: t, answer: answer, roots: x509.NewCertPool()}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.udp = pc.LocalAddr().String()
	f.serve(&miekg.Server{PacketConn: pc, Handler: f.handler("udp")})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.tcp = l.Addr().String()
	f.serve(&miekg.Server{Listener: l, Handler: f.handler("tcp")})
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.tls = l.Addr().String()
	counted := countingListener{l, func() { f.mu.Lock(); f.accepts++; f.mu.Unlock() }}
	secured := tls.NewListener(counted, &tls.Config{Certificates: []tls.Certificate{f.certificate()}})
	f.serve(&miekg.Server{Listener: secured, Handler: f.handler("tls")})
	return f
}

type countingListener struct {
	net.Listener
	count func()
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.count()
	}
	return c, err
}

// certificate names dns.example.org and 192.0.2.1.
func (f *fakeUpstream) certificate() tls.Certificate {
	f.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"dns.example.org"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		f.t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Fatal(err)
	}
	f.roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (f *fakeUpstream) serve(s *miekg.Server) {
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.ActivateAndServe()
	}()
	<-started
	f.t.Cleanup(func() {
		_ = s.Shutdown()
		<-done
	})
}

func (f *fakeUpstream) handler(network string) miekg.Handler {
	return miekg.HandlerFunc(func(w miekg.ResponseWriter, q *miekg.Msg) {
		f.mu.Lock()
		asked := q.Question[0]
		f.asked = append(f.asked, fmt.Sprintf("%s %s %s", network, strings.ToLower(asked.Name), TypeString(asked.Qtype)))
		f.mu.Unlock()
		f.answer(w, q)
	})
}

func (f *fakeUpstream) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// reach is a DialFunc that leads 192.0.2.x to the x-th upstream, whatever the port says.
func reach(list ...*fakeUpstream) DialFunc {
	return func(ctx context.Context, vpc uint32, network string, to netip.AddrPort) (net.Conn, error) {
		i := int(to.Addr().As4()[3]) - 1
		if vpc != pay || i >= len(list) {
			return nil, fmt.Errorf("no route from vpc %d to %v", vpc, to)
		}
		address := list[i].udp
		switch {
		case to.Port() == 853:
			address = list[i].tls
		case network == "tcp":
			address = list[i].tcp
		}
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
}

// rr reads a record as zone text.
func rr(text string) miekg.RR {
	r, err := miekg.NewRR(text)
	if err != nil {
		panic(err)
	}
	return r
}

// reply answers with records, the authority's after "; ".
func reply(w miekg.ResponseWriter, q *miekg.Msg, rcode int, records ...string) {
	m := new(miekg.Msg).SetRcode(q, rcode)
	m.RecursionAvailable = true
	for _, text := range records {
		if rest, ok := strings.CutPrefix(text, "; "); ok {
			m.Ns = append(m.Ns, rr(rest))
			continue
		}
		m.Answer = append(m.Answer, rr(text))
	}
	_ = w.WriteMsg(m)
}

// example answers like the public DNS.
func example(w miekg.ResponseWriter, q *miekg.Msg) {
	name := q.Question[0].Name
	switch strings.ToLower(name) {
	case "example.com.":
		reply(w, q, miekg.RcodeSuccess, name+" 300 IN A 203.0.113.1", "; example.com. 300 IN NS ns.example.com.")
	case "alias.example.com.":
		reply(w, q, miekg.RcodeSuccess, name+" 300 IN CNAME ledger.pay.internal.",
			"ledger.pay.internal. 300 IN A 203.0.113.66")
	case "lost.example.com.":
		reply(w, q, miekg.RcodeNameError, name+" 300 IN CNAME x.ledger.pay.internal.")
	case "liar.example.com.":
		reply(w, q, miekg.RcodeSuccess, name+" 300 IN A 203.0.113.2", "ledger.pay.internal. 300 IN A 203.0.113.66")
	case "fail.example.com.":
		reply(w, q, miekg.RcodeServerFailure)
	case "forever.example.com.":
		reply(w, q, miekg.RcodeSuccess, name+" 4294967295 IN A 203.0.113.3")
	case "zero.example.com.":
		reply(w, q, miekg.RcodeSuccess, name+" 0 IN A 203.0.113.4")
	default:
		reply(w, q, miekg.RcodeNameError, "; com. 900 IN SOA a. b. 1 2 3 4 600")
	}
}

func startPay(t testing.TB, z *zone.Zone, cfg Config) *running {
	t.Helper()
	r := start(t, cfg, z)
	r.is(pay)
	return r
}
