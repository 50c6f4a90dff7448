package dns

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/dns/zone"
)

// Sizes in bytes.
const (
	maxUDPReply  = 1232 // DNS flag day 2020: fits a packet of 1280, the least MTU of IPv6
	maxQuery     = 4096 // a question with its options is far smaller
	maxTCPReply  = 65535
	plainUDPSize = 512 // without EDNS, RFC 1035
)

// Limits. None of them is reached by well-behaved workloads. What all tenants use is divided among accounts, see shares.
const (
	DefaultRateLimit = 1024 // queries per second and client, as AWS allows per network interface

	maxReaders        = 4    // of one socket at once
	maxForwards       = 1024 // waiting for forwarders at once
	maxConns          = 512  // TCP connections
	maxConnsPerClient = 32
	maxPipelined      = 32 // forwarded queries of one connection at once
)

// Times.
const (
	tcpIdle         = 10 * time.Second // for a whole query to arrive
	tcpWrite        = 5 * time.Second  // for the client to take an answer
	upstreamTimeout = 2 * time.Second  // for one forwarder
	forwardTimeout  = 5 * time.Second  // for all of them: a stub resolver waits no longer
	upstreamIdle    = 8 * time.Second  // a TLS connection is kept for the next query
	deviceCheck     = time.Second      // whether the device is still the one that the sockets are bound to
)

// Config is what a Server needs. Listen, and Mesh or Identify, are required.
type Config struct {
	// Listen are ADDRESS:PORT, each for UDP and TCP; "[::]:53" with a Device.
	Listen []string
	// Device binds the sockets to a network interface (SO_BINDTODEVICE): queries through any other one never arrive.
	// When the interface is made anew, the sockets are too.
	Device string
	// Mesh is the mesh's 24 bits; an address of another one is no client.
	Mesh uint32
	// Identify says who a remote address is; default: the overlay address of a workload with tag number 0, in canonical
	// form. The client is told by its IPv4 form in either family: it is one client for limits and the query log.
	Identify func(remote netip.Addr) (vpc uint32, client netip.Addr, ok bool)
	// Changed is called, from any goroutine, after Listening changed. It must not block.
	Changed func()
	// Log gets what an operator must know; default: slog.Default.
	Log *slog.Logger
	// QueryLog gets every answered query of the VPCs that are to be logged, and of others those about which BLOCK or ALERT decided.
	// It is called on the serving goroutine: it must not block, and may be called concurrently.
	QueryLog func(Query)
	// RateLimit is queries per second and client; 0: DefaultRateLimit, negative: none.
	RateLimit int
	// Guard is called for each UDP socket before it is bound: it may have the kernel drop what is above the rate, so that one
	// client does not fill the queue of all. GuardDropped is how many it dropped; both may be nil.
	Guard        func(fd uintptr) error
	GuardDropped func() uint64
	// RootCAs verify forwarders; default: the system's.
	RootCAs *x509.CertPool
	// Dial reaches a forwarder over the underlay; default: net.Dialer.
	Dial DialFunc
	// OwnAddrs are the node's addresses, which no forwarder may have; default: those of the host's interfaces.
	OwnAddrs func() ([]netip.Addr, error)
	// DialVPC reaches a forwarder inside a VPC; nil: such forwarders fail, they are never looked for on the underlay.
	DialVPC DialFunc
	// Reaches says why the node may not ask inside a VPC now, also over connections that are kept; nil: DialVPC alone decides.
	Reaches func(vpc uint32) error
	// ListenPacket and ListenStream make the sockets; default: the host's network, bound to Device.
	ListenPacket func(ctx context.Context, address string) (net.PacketConn, error)
	ListenStream func(ctx context.Context, address string) (net.Listener, error)
}

// DialFunc connects to a forwarder of a VPC; network is "udp" or "tcp".
type DialFunc func(ctx context.Context, vpc uint32, network string, to netip.AddrPort) (net.Conn, error)

// Query is one answered query, for the query log.
type Query struct {
	Time         time.Time // when it arrived
	VPC          uint32
	Client       netip.Addr
	Name         string // as asked, with trailing dot; empty when it could not be read
	Type         uint16
	Class        uint16
	RCODE        int
	Answers      int          // records in the answer section
	Addresses    []netip.Addr // of them, those where a flow may follow; at most maxLogged
	TTL          uint32       // seconds, the least of these; 0 without any
	Endpoint     string       // whose private name it is, if any
	Hosted       string       // id of the hosted zone that answered, if any
	TCP          bool
	Forwarded    bool   // a forwarder was asked, now or (CacheHit) before
	Rule         string // id of the resolver rule whose forwarders, "" for the VPC's own
	Upstream     string // the forwarder whose answer it is, the last one where several were asked
	CacheHit     bool
	Stale        bool        // no forwarder answered; an expired cache entry was given
	Firewall     zone.Action // what the query firewall did, if FirewallRule is one
	FirewallRule string
	Decided      bool // it is here for what the query firewall did alone: the VPC is not to be logged
	Duration     time.Duration
}

// maxLogged bounds the addresses of one query in the log.
const maxLogged = 16

// TypeString is a record type's name, such as "A", or "TYPE65280".
func TypeString(t uint16) string { return miekg.Type(t).String() }

// ClassString is a class's name, such as "IN", or "CLASS65280".
func ClassString(c uint16) string { return miekg.Class(c).String() }

// RCODEString is a response code's name, such as "NXDOMAIN".
func RCODEString(rcode int) string {
	if rcode == miekg.RcodeBadVers { // a number that it shares with BADSIG, which is never sent here
		return "BADVERS"
	}
	if s, ok := miekg.RcodeToString[rcode]; ok {
		return s
	}
	return "RCODE?"
}

func (c Config) withDefaults() Config {
	if c.Identify == nil {
		c.Identify = overlayIdentity(c.Mesh)
	}
	if c.Changed == nil {
		c.Changed = func() {}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.QueryLog == nil {
		c.QueryLog = func(Query) {}
	}
	if c.RateLimit == 0 {
		c.RateLimit = DefaultRateLimit
	}
	if c.Dial == nil {
		c.Dial = underlayDial(c.Mesh)
	}
	if c.OwnAddrs == nil {
		c.OwnAddrs = interfaceAddrs
	}
	if c.ListenPacket == nil {
		c.ListenPacket = listenPacket(c.Device, c.Guard)
	}
	if c.GuardDropped == nil {
		c.GuardDropped = func() uint64 { return 0 }
	}
	if c.ListenStream == nil {
		c.ListenStream = listenStream(c.Device)
	}
	return c
}

// overlayIdentity reads VPC and client from the address that a query comes from, decision 0002.
func overlayIdentity(mesh uint32) func(netip.Addr) (uint32, netip.Addr, bool) {
	return func(remote netip.Addr) (uint32, netip.Addr, bool) {
		o, ok := api.ParseOverlay(remote)
		if !ok || o.Mesh != mesh&0xffffff || o.VPC == 0 || o.Number() != 0 {
			return 0, netip.Addr{}, false
		}
		return o.VPC, o.HostAddr(), true
	}
}
