package dns

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/dns/zone"
)

// upstream is one forwarder of one VPC.
type upstream struct {
	vpc     uint32
	account string // whose VPC it is
	to      zone.Forwarder
	name    string       // to, as text
	may     func() error // asked before each connection
	dial    DialFunc
	tls     *tls.Config // nil: plain DNS
	reading *turns      // in which answers are taken apart

	bad      atomic.Bool  // failed: asked last until it answers
	checking atomic.Bool  // a check is under way
	checkAt  atomic.Int64 // UnixNano; when the next is due
	wait     atomic.Int64 // nanoseconds before the next check

	mu     sync.Mutex
	closed bool
	idle   []idleConn // kept TLS connections, most recently used last
}

type idleConn struct {
	conn  net.Conn
	until time.Time
}

// maxIdle is how many TLS connections an upstream keeps.
const maxIdle = 4

// paddingBlock is what queries over TLS are padded to, in bytes, RFC 8467 section 4.1.
const paddingBlock = 128

var errNoDialVPC = errors.New("the address lies in the VPC, which this node cannot dial into")

func (s *Server) newUpstream(vpc uint32, account string, to zone.Forwarder) *upstream {
	u := &upstream{vpc: vpc, account: account, to: to, name: to.String(), may: func() error { return s.mayAsk(to) }, dial: s.cfg.Dial,
		reading: s.reading}
	if to.Inside {
		if reaches := s.cfg.Reaches; reaches != nil {
			u.may = func() error { return cmp.Or(s.mayAsk(to), reaches(vpc)) }
		}
		u.dial = s.cfg.DialVPC
		if u.dial == nil {
			u.dial = func(context.Context, uint32, string, netip.AddrPort) (net.Conn, error) { return nil, errNoDialVPC }
		}
	}
	if to.TLS {
		u.tls = &tls.Config{
			ServerName: to.ServerName, RootCAs: s.cfg.RootCAs, MinVersion: tls.VersionTLS12,
			ClientSessionCache: tls.NewLRUClientSessionCache(1),
		}
	}
	return u
}

// mayAsk holds a forwarder to the rule of the names in force, against the addresses that the node has at this moment.
func (s *Server) mayAsk(to zone.Forwarder) error {
	var own []netip.Addr
	if !to.Inside {
		var err error
		if own, err = s.cfg.OwnAddrs(); err != nil {
			return fmt.Errorf("this node's addresses: %w", err)
		}
	}
	return s.Zone().CheckForwarder(to, own)
}

func (u *upstream) close() {
	u.closeIdle()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
}

func (u *upstream) closeIdle() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.idle {
		_ = c.conn.Close()
	}
	u.idle = nil
}

// ask gets a usable answer within upstreamTimeout: NOERROR or NXDOMAIN, for this question.
func (u *upstream) ask(ctx context.Context, k question) (*miekg.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	m, err := u.exchange(ctx, k)
	if err != nil {
		return nil, err
	}
	if m.Rcode != miekg.RcodeSuccess && m.Rcode != miekg.RcodeNameError {
		return nil, fmt.Errorf("forwarder answered %s", RCODEString(m.Rcode))
	}
	return m, nil
}

func (u *upstream) exchange(ctx context.Context, k question) (*miekg.Msg, error) {
	if u.tls != nil {
		return u.exchangeTLS(ctx, k)
	}
	if u.to.TCP {
		return u.exchangeTCP(ctx, k)
	}
	m, err := u.exchangeUDP(ctx, k)
	if err == nil && m.Truncated || errors.Is(err, errCase) || errors.Is(err, errStray) {
		return u.exchangeTCP(ctx, k)
	}
	if m != nil {
		m.AuthenticatedData = false // anybody on the path could have set it
	}
	return m, err
}

// newQuery makes a query with a random id.
func newQuery(k question) (*miekg.Msg, error) {
	var id [2]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("random id: %w", err)
	}
	m := new(miekg.Msg)
	m.SetQuestion(k.name, k.qtype)
	m.Id = binary.BigEndian.Uint16(id[:])
	m.CheckingDisabled = k.cd
	m.AuthenticatedData = true // the answer's bit is wanted; clients get it only if they asked
	m.SetEdns0(maxUDPReply, k.do)
	return m, nil
}

// pad hides the length of the name from who sees the TLS record.
func pad(m *miekg.Msg) {
	const optionHeader = 4
	n := (m.Len() + optionHeader) % paddingBlock
	padding := &miekg.EDNS0_PADDING{Padding: make([]byte, (paddingBlock-n)%paddingBlock)}
	opt := m.IsEdns0()
	opt.Option = append(opt.Option, padding)
}

// randomCase flips the case of letters at random: a forged answer must echo it.
func randomCase(name string) (string, error) {
	bits := make([]byte, len(name))
	if _, err := rand.Read(bits); err != nil {
		return "", fmt.Errorf("random case: %w", err)
	}
	b := []byte(name)
	for i, c := range b {
		if c >= 'a' && c <= 'z' && bits[i]&1 == 1 {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b), nil
}

// Bounds of a forwarder's answer, checked before it is read: names in it may be compressed, so that reading one takes many times what
// sending it does, and whose forwarder it is may be any account. What is larger is no answer.
const (
	maxAnswer        = 16 << 10 // bytes
	maxAnswerRecords = 128      // of all sections
	maxStray         = 64       // datagrams for one question that are no answer to it; then it is asked over TCP
)

var (
	errLarge = fmt.Errorf("forwarder's answer has more than %d bytes or %d records", maxAnswer, maxAnswerRecords)
	errStray = fmt.Errorf("forwarder sent %d datagrams that are no answer", maxStray)
	errEcho  = errors.New("forwarder's answer does not match the question")
	errCase  = errors.New("forwarder changed the case of the question")
	errTurn  = errors.New("other answers of the account were read until the time was up")
)

// read is verify when it is the account's turn, for what may be an answer.
func (u *upstream) read(ctx context.Context, data []byte, query *miekg.Msg) (m *miekg.Msg, err error) {
	if err := verifyHeader(data, query); err != nil {
		return nil, err
	}
	if !u.reading.do(ctx, u.account, func() { m, err = verify(data, query) }) {
		return nil, errTurn
	}
	return m, err
}

// verifyHeader checks of an answer what costs nothing to read.
func verifyHeader(data []byte, query *miekg.Msg) error {
	const response, opcode = 0x80, 0x78 // bits of the third byte
	if len(data) < headerSize || binary.BigEndian.Uint16(data) != query.Id || data[2]&(response|opcode) != response ||
		binary.BigEndian.Uint16(data[4:]) != 1 {
		return errEcho
	}
	records := 0
	for i := 6; i < headerSize; i += 2 {
		records += int(binary.BigEndian.Uint16(data[i:]))
	}
	if len(data) > maxAnswer || records > maxAnswerRecords {
		return errLarge
	}
	return nil
}

// verify reads an answer and checks that it is one to the query.
func verify(data []byte, query *miekg.Msg) (*miekg.Msg, error) {
	if err := verifyHeader(data, query); err != nil {
		return nil, err
	}
	m := new(miekg.Msg)
	if err := m.Unpack(data); err != nil {
		return nil, fmt.Errorf("forwarder's answer: %w", err)
	}
	if len(m.Question) != 1 {
		return nil, errEcho
	}
	asked, got := query.Question[0], m.Question[0]
	if got.Qtype != asked.Qtype || got.Qclass != asked.Qclass || !strings.EqualFold(got.Name, asked.Name) {
		return nil, errEcho
	}
	if got.Name != asked.Name {
		return m, errCase
	}
	return m, nil
}

// connect dials and bounds all that follows by the context's deadline and end.
func (u *upstream) connect(ctx context.Context, network string) (net.Conn, func() bool, error) {
	if err := u.may(); err != nil {
		return nil, nil, err
	}
	conn, err := u.dial(ctx, u.vpc, network, u.to.Address)
	if err != nil {
		return nil, nil, fmt.Errorf("dial forwarder: %w", err)
	}
	release, err := bound(ctx, conn)
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, release, nil
}

// bound lets the context end the connection's reads and writes; release ends that, and reports false when the context
// was faster.
func bound(ctx context.Context, conn net.Conn) (release func() bool, err error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, fmt.Errorf("forwarder deadline: %w", err)
		}
	}
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }), nil
}

// exchangeUDP asks from a port that the kernel chose at random; some datagrams that do not match are passed over.
func (u *upstream) exchangeUDP(ctx context.Context, k question) (*miekg.Msg, error) {
	query, err := newQuery(k)
	if err != nil {
		return nil, err
	}
	if query.Question[0].Name, err = randomCase(k.name); err != nil {
		return nil, err
	}
	data, err := query.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack query: %w", err)
	}
	conn, release, err := u.connect(ctx, "udp")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer release()
	if _, err := conn.Write(data); err != nil {
		return nil, fmt.Errorf("ask forwarder: %w", err)
	}
	buf := make([]byte, maxQuery)
	for range maxStray {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, fmt.Errorf("wait for forwarder: %w", err)
		}
		m, err := u.read(ctx, buf[:n], query)
		if err == nil || errors.Is(err, errCase) || errors.Is(err, errTurn) {
			return m, err
		}
	}
	return nil, errStray
}

// exchangeTCP asks over plain TCP.
func (u *upstream) exchangeTCP(ctx context.Context, k question) (*miekg.Msg, error) {
	conn, release, err := u.connect(ctx, "tcp")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer release()
	m, err := u.exchangeStream(ctx, conn, k)
	if m != nil {
		m.AuthenticatedData = false
	}
	return m, err
}

// exchangeStream sends one query over a stream and reads its answer.
func (u *upstream) exchangeStream(ctx context.Context, conn net.Conn, k question) (*miekg.Msg, error) {
	query, err := newQuery(k)
	if err != nil {
		return nil, err
	}
	if u.tls != nil {
		pad(query)
	}
	data, err := query.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack query: %w", err)
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(data))), data...)); err != nil {
		return nil, fmt.Errorf("ask forwarder: %w", err)
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, fmt.Errorf("wait for forwarder: %w", err)
	}
	size := binary.BigEndian.Uint16(length[:])
	if size > maxAnswer {
		return nil, errLarge
	}
	answer := make([]byte, size)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, fmt.Errorf("wait for forwarder: %w", err)
	}
	m, err := u.read(ctx, answer, query)
	if errors.Is(err, errCase) {
		err = nil // a stream cannot be forged by who is not on the path
	}
	return m, err
}

// exchangeTLS asks over a kept connection, or a new one if there is none or it was closed meanwhile.
func (u *upstream) exchangeTLS(ctx context.Context, k question) (*miekg.Msg, error) {
	if err := u.may(); err != nil { // what allowed the kept ones may be gone
		u.closeIdle()
		return nil, err
	}
	for conn := u.takeIdle(time.Now()); conn != nil; conn = u.takeIdle(time.Now()) {
		if m, err := u.onTLS(ctx, conn, k); err == nil || ctx.Err() != nil {
			return m, err
		}
	}
	conn, release, err := u.connect(ctx, "tcp")
	if err != nil {
		return nil, err
	}
	release()
	return u.onTLS(ctx, tls.Client(conn, u.tls), k)
}

// onTLS asks over one connection and keeps it when that went well.
func (u *upstream) onTLS(ctx context.Context, conn net.Conn, k question) (*miekg.Msg, error) {
	release, err := bound(ctx, conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	m, err := u.exchangeStream(ctx, conn, k)
	if unbound := release(); unbound && err == nil {
		u.putIdle(conn, time.Now())
	} else {
		_ = conn.Close()
	}
	return m, err
}

// takeIdle returns a kept connection that is not too old, or nil.
func (u *upstream) takeIdle(now time.Time) net.Conn {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.idle) > 0 {
		c := u.idle[len(u.idle)-1]
		u.idle = u.idle[:len(u.idle)-1]
		if now.Before(c.until) {
			return c.conn
		}
		_ = c.conn.Close()
	}
	return nil
}

func (u *upstream) putIdle(conn net.Conn, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		_ = conn.Close()
		return
	}
	if len(u.idle) == maxIdle {
		_ = u.idle[0].conn.Close()
		u.idle = u.idle[1:]
	}
	u.idle = append(u.idle, idleConn{conn, now.Add(upstreamIdle)})
}
