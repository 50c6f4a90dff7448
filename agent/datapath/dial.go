package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
)

// Dialer connects the node itself to targets that the plan in force lets it probe. They see their load balancer's address.
type Dialer struct {
	Mesh   uint32
	Node   uint32
	Device string // the host's own link
}

// Dial connects to a target of a VPC by TCP. What the programs refuse is silence, as with any packet. The connection ends with a RST
// when it is closed: else the target, or this host, would remember each probe for a minute.
func (d *Dialer) Dial(ctx context.Context, vpc uint32, to netip.AddrPort) (net.Conn, error) {
	if !to.Addr().Is4() || vpc == 0 {
		return nil, fmt.Errorf("probe %s of VPC %d: not an IPv4 address of a VPC", to, vpc)
	}
	dialer := net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(api.NodeAddr(d.Mesh, d.Node), 0)), KeepAlive: -1, Control: d.control,
	}
	target := api.Overlay{Mesh: d.Mesh, VPC: vpc, Host: api.AddrHost(to.Addr()), Tag: api.TagFamilyIPv4}.Addr()
	c, err := dialer.DialContext(ctx, "tcp6", netip.AddrPortFrom(target, to.Port()).String())
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		err = tcp.SetLinger(0)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// control marks a socket as the prober's and binds it to the host's link: whatever routes say, nothing goes elsewhere.
func (d *Dialer) control(_, _ string, raw syscall.RawConn) error {
	var err error
	outer := raw.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(bpf.ProbeMark)),
			unix.BindToDevice(int(fd), d.Device))
	})
	return errors.Join(outer, err)
}
