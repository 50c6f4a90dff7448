// Package probe asks targets whether they work: by a TCP connection, an HTTP or HTTPS request, or gRPC's health service.
package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/culvert-net/culvert/agent/health"
)

// hurryConnect bounds how long a suspected target may take to accept a connection. It is on this machine: a SYN that is not
// answered by then will not be before it is sent again, a second later.
const hurryConnect = 250 * time.Millisecond

// standstill is how long after its time a probe's end may be noticed. A process that was stopped, or got no CPU, for longer knows
// not whether the target answered.
const standstill = 500 * time.Millisecond

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 10

// proxyLocal is a header of version 2 of the PROXY protocol with the command LOCAL, which checks send: there is no client.
var proxyLocal = []byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00")

// userAgent is what targets see in their logs.
const userAgent = "Culvert-HealthChecker/1.0"

// ErrNoWay is what Dial fails with while this node has no way to the target yet.
var ErrNoWay = errors.New("this node has no way to the target yet")

// local are errors of this node's, of which no target is to blame: no link or address yet, no memory, port or file descriptor left,
// no privilege.
var local = []error{syscall.ENODEV, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT, syscall.ENETDOWN, syscall.EMFILE, syscall.ENFILE,
	syscall.ENOBUFS, syscall.ENOMEM, syscall.EPERM}

// Prober probes targets over the network.
type Prober struct {
	// Dial connects to a target from the address that targets know probes by.
	Dial func(ctx context.Context, vpc uint32, to netip.AddrPort) (net.Conn, error)
}

// Probe returns within the check's timeout.
func (p *Prober) Probe(ctx context.Context, pr health.Probe) health.Outcome {
	ctx, cancel := context.WithTimeout(ctx, pr.Check.Timeout)
	defer cancel()
	conn, o := p.connect(ctx, pr)
	if conn == nil {
		return o
	}
	defer conn.Close()
	return inTime(ctx, talk(ctx, conn, pr))
}

// talk asks what the check says over a connection.
func talk(ctx context.Context, conn net.Conn, pr health.Probe) health.Outcome {
	if pr.Check.ProxyHeader && pr.Check.Protocol != health.TCP { // of a connection that ends at once nobody reads one
		if _, err := conn.Write(proxyLocal); err != nil {
			return failure("request", err)
		}
	}
	switch pr.Check.Protocol {
	case health.HTTP, health.HTTPS:
		return web(ctx, conn, pr.Check)
	case health.GRPC:
		return remote(ctx, conn, pr.Check)
	}
	return health.Outcome{}
}

// inTime makes nothing of a silence that ended well after it should have.
func inTime(ctx context.Context, o health.Outcome) health.Outcome {
	if at, ok := ctx.Deadline(); o.Reason == health.ReasonTimeout && ok && time.Since(at) > standstill {
		return health.Outcome{Untried: true, Late: true, Detail: "this node stood still meanwhile"}
	}
	return o
}

// connect returns no connection where it has an outcome.
func (p *Prober) connect(ctx context.Context, pr health.Probe) (net.Conn, health.Outcome) {
	if pr.Hurry {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, hurryConnect)
		defer cancel()
	}
	conn, err := p.Dial(ctx, pr.Check.VPC, address(pr.Check))
	if err == nil {
		return conn, health.Outcome{}
	}
	o := inTime(ctx, failure("connect", err))
	o.Doubt = pr.Hurry && o.Reason == health.ReasonTimeout
	return nil, o
}

// address is where a target is probed.
func address(c health.Check) netip.AddrPort { return netip.AddrPortFrom(c.Target.Addr(), c.Port) }

// failure tells what is this node's from silence, and that from a refusal.
func failure(what string, err error) health.Outcome {
	if errors.Is(err, ErrNoWay) {
		return health.Outcome{Untried: true}
	}
	if slices.ContainsFunc(local, func(l error) bool { return errors.Is(err, l) }) {
		return health.Outcome{Untried: true, Detail: printable(what + ": " + plain(err))}
	}
	var t net.Error
	if errors.As(err, &t) && t.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return health.Outcome{Reason: health.ReasonTimeout, Detail: what + ": no answer in time"}
	}
	return health.Outcome{Reason: health.ReasonFailed, Detail: printable(what + ": " + plain(err))}
}

// plain is an error without the addresses of the overlay, which mean nothing to those who read it.
func plain(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var system *os.SyscallError
	if errors.As(err, &system) {
		err = system.Err
	}
	return err.Error()
}

// printable bounds what a target can have written into states and logs.
func printable(s string) string {
	const most = 120
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), most)]
}

// once is a transport over a connection that is there already. Nobody but the target is spoken to: no redirect is followed, no
// proxy used, and a certificate is not verified, as with AWS: what is behind it is one's own.
func once(conn net.Conn, protocols *http.Protocols) *http.Transport {
	dial := func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	return &http.Transport{
		DialContext: dial, Protocols: protocols, MaxResponseHeaderBytes: maxAnswer, DisableCompression: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // see above
	}
}

func web(ctx context.Context, conn net.Conn, c health.Check) health.Outcome {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	t := once(conn, &protocols)
	defer t.CloseIdleConnections()
	u, err := url.Parse(c.Path)
	if err != nil || u.Host != "" || u.Scheme != "" {
		return health.Outcome{Reason: health.ReasonFailed, Detail: printable("request: " + strconv.Quote(c.Path) + " is no path")}
	}
	u.Scheme, u.Host = string(c.Protocol), address(c).String()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return failure("request", err)
	}
	r.Header.Set("User-Agent", userAgent)
	r.Close = true
	answer, err := t.RoundTrip(r)
	if err != nil {
		return failure("request", err)
	}
	defer answer.Body.Close()
	return judge("HTTP status", answer.StatusCode, c.Matcher, "200-399")
}

// judge holds a code against a matcher.
func judge(what string, code int, matcher, standard string) health.Outcome {
	if matcher == "" {
		matcher = standard
	}
	if Matches(matcher, code) {
		return health.Outcome{}
	}
	return health.Outcome{Reason: health.ReasonMismatch, Detail: fmt.Sprintf("%s %d, want %s", what, code, printable(matcher))}
}

// Matches tells whether a code is in a list such as 200-399,404.
func Matches(matcher string, code int) bool {
	for part := range strings.SplitSeq(matcher, ",") {
		low, high, ranged := strings.Cut(strings.TrimSpace(part), "-")
		from, err := strconv.Atoi(low)
		to := from
		if ranged && err == nil {
			to, err = strconv.Atoi(high)
		}
		if err == nil && from <= code && code <= to {
			return true
		}
	}
	return false
}

// remote calls grpc.health.v1.Health/Check, in clear, for the service that the path names; "" is the whole server. Code 0 passes
// with an answer of SERVING only.
func remote(ctx context.Context, conn net.Conn, c health.Check) health.Outcome {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	t := once(conn, &protocols)
	defer t.CloseIdleConnections()
	message := request(strings.TrimPrefix(c.Path, "/"))
	to := "http://" + address(c).String() + "/grpc.health.v1.Health/Check"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(message))
	if err != nil {
		return failure("request", err)
	}
	for k, v := range map[string]string{"Content-Type": "application/grpc", "Te": "trailers", "User-Agent": userAgent} {
		r.Header.Set(k, v)
	}
	answer, err := t.RoundTrip(r)
	if err != nil {
		return failure("request", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return failure("answer", err)
	}
	status := answer.Trailer.Get("Grpc-Status")
	if status == "" {
		status = answer.Header.Get("Grpc-Status") // of an answer that is trailers only
	}
	code, err := strconv.Atoi(status)
	if err != nil {
		return health.Outcome{Reason: health.ReasonFailed, Detail: fmt.Sprintf("answer: HTTP status %d, not gRPC's", answer.StatusCode)}
	}
	if o := judge("gRPC status", code, c.Matcher, "0"); o.Reason != health.ReasonNone || code != 0 {
		return o
	}
	if serving, ok := answered(body); !ok || serving != 1 {
		return health.Outcome{Reason: health.ReasonMismatch, Detail: fmt.Sprintf("the service says %s", names[serving%uint64(len(names))])}
	}
	return health.Outcome{}
}

// names of grpc.health.v1.HealthCheckResponse.ServingStatus.
var names = []string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}

// request is a HealthCheckRequest as gRPC frames it: not compressed, length, field 1 with the service's name.
func request(service string) []byte {
	var m []byte
	if service != "" {
		m = append([]byte{1<<3 | 2}, binary.AppendUvarint(nil, uint64(len(service)))...)
		m = append(m, service...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
}

// answered reads field 1 of a HealthCheckResponse; ok is false when it is none. Without the field the status is UNKNOWN.
func answered(b []byte) (status uint64, ok bool) {
	const head = 5
	if len(b) < head || b[0] != 0 || binary.BigEndian.Uint32(b[1:]) != uint32(len(b)-head) {
		return 0, false
	}
	for b = b[head:]; len(b) > 0; {
		if b[0] != 1<<3 { // nothing but a varint in field 1 is defined
			return 0, false
		}
		v, n := binary.Uvarint(b[1:])
		if n <= 0 {
			return 0, false
		}
		status, b = v, b[1+n:]
	}
	return status, true
}
