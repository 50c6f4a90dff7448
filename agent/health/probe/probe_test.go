package probe

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/culvert-net/culvert/agent/health"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func prober() *Prober {
	return &Prober{Dial: func(ctx context.Context, _ uint32, to netip.AddrPort) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", to.String())
	}}
}

func check(protocol health.Protocol, at net.Addr) health.Check {
	a := netip.MustParseAddrPort(at.String())
	return health.Check{Key: health.Key{TargetGroup: 1, Target: a}, VPC: 5, Port: a.Port(),
		Config: health.Config{Protocol: protocol, Timeout: 2 * time.Second, Interval: 10 * time.Second}}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func want(t *testing.T, c health.Check, reason health.Reason, detail string) {
	t.Helper()
	if o := prober().Probe(t.Context(), health.Probe{Check: c}); o.Reason != reason || !strings.Contains(o.Detail, detail) {
		t.Errorf("%s %q: %q %q, want %q %q", c.Protocol, c.Path, o.Reason, o.Detail, reason, detail)
	}
}

func TestTCP(t *testing.T) {
	l := listen(t)
	want(t, check(health.TCP, l.Addr()), health.ReasonNone, "")
	other := check(health.TCP, listen(t).Addr())
	other.Port = check(health.TCP, l.Addr()).Port // an override
	want(t, other, health.ReasonNone, "")
	l.Close()
	want(t, check(health.TCP, l.Addr()), health.ReasonFailed, "connect: connection refused")
}

// What this node is to blame for says nothing of a target.
func TestOwnTrouble(t *testing.T) {
	c := check(health.TCP, listen(t).Addr())
	for want, errs := range map[bool][]error{
		true: {ErrNoWay, syscall.ENODEV, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT, syscall.ENETDOWN, syscall.EMFILE, syscall.ENFILE,
			syscall.ENOBUFS, syscall.ENOMEM, syscall.EPERM},
		false: {syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES, syscall.ETIMEDOUT, io.EOF},
	} {
		for _, err := range errs {
			p := &Prober{Dial: func(context.Context, uint32, netip.AddrPort) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: errors.Join(os.NewSyscallError("connect", err), nil)}
			}}
			o := p.Probe(t.Context(), health.Probe{Check: c})
			if o.Untried != want || (o.Reason == health.ReasonNone) != want || len(o.Detail) == 0 && err != ErrNoWay {
				t.Errorf("%v: %+v", err, o)
			}
		}
	}
	away := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}} // an address that this machine has not
	p := &Prober{Dial: func(ctx context.Context, _ uint32, to netip.AddrPort) (net.Conn, error) {
		return away.DialContext(ctx, "tcp", to.String())
	}}
	if o := p.Probe(t.Context(), health.Probe{Check: c}); !o.Untried || !strings.Contains(o.Detail, "cannot assign requested address") {
		t.Errorf("an address that is not here: %+v", o)
	}
}

// A suspected target has little time to accept, and as much as any other for its answer.
func TestHurry(t *testing.T) {
	silent := &Prober{Dial: func(ctx context.Context, _ uint32, _ netip.AddrPort) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	for hurry, most := range map[bool]time.Duration{true: 2 * hurryConnect, false: 3 * time.Second} {
		begin := time.Now()
		o := silent.Probe(t.Context(), health.Probe{Check: check(health.TCP, listen(t).Addr()), Hurry: hurry})
		if took := time.Since(begin); o.Reason != health.ReasonTimeout || o.Doubt != hurry || took > most || !hurry && took < 2*time.Second {
			t.Errorf("hurry %t: %+v after %s", hurry, o, took)
		}
	}
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-time.After(2 * hurryConnect) }))
	defer slow.Close()
	if o := prober().Probe(t.Context(), health.Probe{Check: check(health.HTTP, slow.Listener.Addr()), Hurry: true}); o.Reason != health.ReasonNone {
		t.Errorf("a slow answer: %+v", o)
	}
}

// A probe whose end is noticed long after its time, as where the agent was stopped or got no CPU, found out nothing.
func TestStandstill(t *testing.T) {
	for late, untried := range map[time.Duration]bool{0: false, standstill + 100*time.Millisecond: true} {
		for _, hurry := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				p := &Prober{Dial: func(ctx context.Context, _ uint32, _ netip.AddrPort) (net.Conn, error) {
					<-ctx.Done()
					<-time.After(late)
					return nil, ctx.Err()
				}}
				c := health.Check{Key: health.Key{Target: netip.MustParseAddrPort("10.0.0.1:80")}, Config: health.Config{Timeout: time.Second}}
				o := p.Probe(t.Context(), health.Probe{Check: c, Hurry: hurry})
				if o.Untried != untried || (o.Reason == health.ReasonTimeout) == untried || o.Doubt != (hurry && !untried) {
					t.Errorf("%s late, hurry %t: %+v", late, hurry, o)
				}
			})
		}
		answer := func(ctx context.Context) health.Outcome {
			<-ctx.Done()
			<-time.After(late)
			return failure("request", ctx.Err())
		}
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if o := inTime(ctx, answer(ctx)); o.Untried != untried {
				t.Errorf("an answer, %s late: %+v", late, o)
			}
		})
	}
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.UserAgent() != userAgent || r.URL.RawQuery != "a=b" {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
	})
	mux.HandleFunc("/gone", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 2*maxAnswer)) })
	for _, tls := range []bool{false, true} {
		s := httptest.NewUnstartedServer(mux)
		c := check(health.HTTP, s.Listener.Addr())
		if s.Start(); tls {
			s.Close()
			s = httptest.NewTLSServer(mux) // with a certificate that nobody has signed
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			c = check(health.HTTPS, s.Listener.Addr())
		}
		for path, reason := range map[string]health.Reason{"/ok?a=b": health.ReasonNone, "/away": health.ReasonNone,
			"/gone": health.ReasonMismatch, "/nowhere": health.ReasonMismatch, "/long": health.ReasonFailed,
			"http://192.0.2.1/ok": health.ReasonFailed} {
			c.Path = path
			want(t, c, reason, "")
		}
		c.Path = "/gone"
		want(t, c, health.ReasonMismatch, "HTTP status 503, want 200-399")
		c.Matcher = "404,500-599"
		want(t, c, health.ReasonNone, "")
		c.Path, c.Timeout = "/hangs", 100*time.Millisecond
		want(t, c, health.ReasonTimeout, "no answer in time")
		s.Close()
	}
}

// A path that is none is not asked for, and what is said of it is short: the control plane takes no long texts.
func TestPathsThatAreNone(t *testing.T) {
	c := check(health.HTTP, listen(t).Addr())
	for _, path := range []string{"/%zz" + strings.Repeat("a", 1000), "//" + strings.Repeat("a", 1000) + "/", "/\x00é" + strings.Repeat("%", 1000)} {
		c.Path = path
		o := prober().Probe(t.Context(), health.Probe{Check: c})
		if o.Reason != health.ReasonFailed || len(o.Detail) > 120 || o.Detail != printable(o.Detail) || !strings.HasPrefix(o.Detail, "request: ") {
			t.Errorf("%.20q: %+v", path, o)
		}
	}
}

// Whatever a target answers, the text about it is short and printable.
func TestHostileAnswers(t *testing.T) {
	for _, answer := range []string{"", "SSH-2.0-x\r\n", "HTTP/1.1 \x1b[31m\r\n\r\n", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("\x00", 500) + "\r\n\r\n",
		"HTTP/1.1 99999 x\r\n\r\n", strings.Repeat("HTTP/1.1 103 x\r\n\r\n", 10_000)} {
		l := listen(t)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = http.ReadRequest(bufio.NewReader(c))
				_, _ = io.WriteString(c, answer)
				c.Close()
			}
		}()
		for _, protocol := range []health.Protocol{health.HTTP, health.HTTPS, health.GRPC} {
			c := check(protocol, l.Addr())
			c.Path = "/"
			o := prober().Probe(t.Context(), health.Probe{Check: c})
			if o.Reason == health.ReasonNone || len(o.Detail) > 150 || o.Detail != printable(o.Detail) {
				t.Errorf("%.40q to %s: %+v", answer, protocol, o)
			}
		}
	}
}

func TestGRPC(t *testing.T) {
	l := listen(t)
	s, h := grpc.NewServer(), grpchealth.NewServer()
	grpc_health_v1.RegisterHealthServer(s, h)
	go func() { _ = s.Serve(l) }()
	defer s.Stop()
	h.SetServingStatus("ledger.v1.Ledger", grpc_health_v1.HealthCheckResponse_SERVING)
	h.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	c := check(health.GRPC, l.Addr())
	want(t, c, health.ReasonNone, "")
	c.Path = "ledger.v1.Ledger"
	want(t, c, health.ReasonNone, "")
	c.Path = "sick"
	want(t, c, health.ReasonMismatch, "NOT_SERVING")
	c.Path = "nobody"
	want(t, c, health.ReasonMismatch, "gRPC status 5, want 0")
	c.Matcher = "0,5"
	want(t, c, health.ReasonNone, "")
	c.Path = "sick"
	want(t, c, health.ReasonMismatch, "NOT_SERVING")

	bare := grpc.NewServer() // it has no health service
	other := listen(t)
	go func() { _ = bare.Serve(other) }()
	defer bare.Stop()
	c = check(health.GRPC, other.Addr())
	want(t, c, health.ReasonMismatch, "gRPC status 12")
	c.Matcher = "12"
	want(t, c, health.ReasonNone, "")

	web := httptest.NewUnstartedServer(http.NotFoundHandler())
	web.Config.Protocols = new(http.Protocols)
	web.Config.Protocols.SetUnencryptedHTTP2(true)
	web.Start()
	defer web.Close()
	want(t, check(health.GRPC, web.Listener.Addr()), health.ReasonFailed, "not gRPC's")
}

// A target that wants the PROXY protocol gets a header that says that there is no client.
func TestProxyHeader(t *testing.T) {
	l := listen(t)
	got := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 20)
		_, _ = io.ReadFull(c, b)
		got <- string(b)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	}()
	c := check(health.HTTP, l.Addr())
	c.ProxyHeader, c.Path = true, "/"
	want(t, c, health.ReasonNone, "")
	if s := <-got; s != string(proxyLocal)+"GET " {
		t.Errorf("%q", s)
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		matcher string
		code    int
		want    bool
	}{
		{"200", 200, true}, {"200", 201, false}, {"200-399", 399, true}, {"200-399", 400, false}, {"200,302", 302, true},
		{" 200 , 404", 404, true}, {"", 200, false}, {"x", 0, false}, {"200-", 200, false}, {"-5", 3, false}, {"399-200", 300, false},
	} {
		if got := Matches(c.matcher, c.code); got != c.want {
			t.Errorf("%q, %d: %t", c.matcher, c.code, got)
		}
	}
}

// FuzzAnswered: what a gRPC server answers is a status or nothing.
func FuzzAnswered(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 8, 1})
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Add([]byte{1, 0, 0, 0, 2, 8, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if status, ok := answered(b); !ok && status != 0 {
			t.Errorf("%x: %d", b, status)
		}
	})
}
