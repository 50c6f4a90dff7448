package datapath

import (
	"bufio"
	"fmt"
	"net"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

// Decision 0016 on real sockets: unfinished checksums, segmentation offload, retransmissions. The library that reads the
// headers is the one that Go servers use.

const testEndpoint = "vpce-0a1b2c3d4e5f60718"

// slow is how long TCP may take to get over what these tests lose: a SYN-ACK is repeated after 1, 3 and 7 s.
const slow = 20 * time.Second

// told is a connection as its target has it, behind the header.
type told struct {
	net.Conn
	r *bufio.Reader
}

func (c *told) Read(b []byte) (int, error) { return c.r.Read(b) }

// readHeader demands that a connection begin with what its client and its endpoint are.
func readHeader(c net.Conn, client net.Addr, dialed string) (*told, error) {
	if err := c.SetDeadline(time.Now().Add(slow)); err != nil {
		return nil, err
	}
	r := bufio.NewReader(c)
	h, err := proxyproto.Read(r)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	tlvs, err := h.TLVs()
	if err != nil {
		return nil, err
	}
	if id := tlvparse.FindAWSVPCEndpointID(tlvs); id != testEndpoint {
		return nil, fmt.Errorf("endpoint %q", id)
	}
	if client != nil && h.SourceAddr.String() != client.String() || h.DestinationAddr.String() != dialed {
		return nil, fmt.Errorf("header of %s to %s, want %s to %s", h.SourceAddr, h.DestinationAddr, client, dialed)
	}
	if host, _, _ := net.SplitHostPort(c.RemoteAddr().String()); host != "10.0.1.9" && host != six(pay, "10.0.1.9").String() {
		return nil, fmt.Errorf("the socket's peer is %s, want the load balancer", c.RemoteAddr())
	}
	return &told{c, r}, nil
}

// listen opens the port of a target.
func (w *workload) listen(t *testing.T) net.Listener {
	t.Helper()
	var ln net.Listener
	if err := w.Do(func() (err error) { ln, err = net.Listen("tcp", ":8443"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// reopenHost makes a new agent's datapath of what is there.
func (m *mesh) reopenHost(h *meshHost) {
	m.t.Helper()
	old := h.dp
	if err := h.Do(func() (err error) { h.dp, err = Open(h.cfg); return err }); err != nil {
		m.t.Fatalf("open again: %+v", err)
	}
	if err := old.Close(); err != nil {
		m.t.Fatal(err)
	}
}
