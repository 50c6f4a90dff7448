package datapath

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/logkey"
)

// A revoked flow is cut at its next packet from a workload, which is answered with a RST. An end that only listens sends
// none, and would wait for ever. So when connections went, each local TCP end of their flows is prompted: it gets a segment
// that cannot be part of its connection (sequence number 0), to which RFC 9293, 3.10.7.4 demands an ACK in answer. That
// ACK meets the programs. The segment has data, as Linux answers bare ones twice a second at most, and a probe of the
// window may just have been one.

// promptData is how many bytes of data a prompt has; even, for its sum.
const promptData = 2

// promptSize is an Ethernet frame with IPv6 and TCP headers and data, in bytes; with IPv4 it is less.
const promptSize = 14 + 40 + 20 + promptData

// permissions are what flows of connections live by.
type permissions struct {
	*rows
	connections map[uint32]bool
	listed      map[uint32]map[netip.AddrPort]bool // by target table
}

func (r *rows) permissions() (*permissions, error) {
	p := &permissions{r, make(map[uint32]bool, len(r.services)+len(r.grants)), map[uint32]map[netip.AddrPort]bool{}}
	for _, s := range r.services {
		p.connections[s.Connection] = true
	}
	for _, g := range r.grants {
		p.connections[g.Connection] = true
	}
	for id, t := range r.targetTables {
		targets, err := t.Targets()
		if err != nil {
			return nil, err
		}
		p.listed[id] = make(map[netip.AddrPort]bool, len(targets))
		for _, x := range targets {
			p.listed[id][x.AddrPort] = true
		}
	}
	return p, nil
}

// gone says whether the connection of a flow, or its target, is not among the rows.
func (p *permissions) gone(f *Flow) bool {
	o, k := &f.Opening, &f.Opening.Key
	if o.Connection == 0 { // no connection, or only the other entry is left
		return f.Reply.Connection != 0 && !p.connections[f.Reply.Connection]
	}
	if !p.connections[o.Connection] {
		return true
	}
	if k.SideOf() == bpf.ViewProvider {
		_, ok := p.grantTargets[bpf.GrantTargetKey{Vpc: k.Vpc, Tag: uint32(k.Tag), Addr: k.Daddr, Port: k.Dport}]
		return !ok
	}
	s, ok := p.services[bpf.ServiceKey{Vpc: k.Vpc, Addr: k.Daddr, Port: k.Dport, Protocol: k.Protocol}]
	return !ok || !p.listed[s.Table][netip.AddrPortFrom(bpf.Addr(o.Daddr), bpf.Port(o.Dport))]
}

// promptRevoked prompts the local ends of flows whose connection or target is not among the rows in force.
func (d *Datapath) promptRevoked(ctx context.Context, inForce *rows) error {
	flows, err := d.Flows(ctx)
	if err != nil {
		return fmt.Errorf("prompt revoked flows: %w", err)
	}
	permissions, err := inForce.permissions()
	if err != nil {
		return fmt.Errorf("prompt revoked flows: %w", err)
	}
	p := prompter{log: d.log, mesh: inForce.config.Mesh}
	defer p.close()
	for i := range flows {
		if !permissions.gone(&flows[i]) {
			continue
		}
		for _, e := range [...]*bpf.Flow{&flows[i].Opening, &flows[i].Reply} {
			if !promptable(e) {
				continue
			}
			eni, ok := inForce.enis[bpf.VPCAddr{Vpc: e.DestVPC(), Addr: e.Daddr}]
			if !ok {
				continue
			}
			if err := p.prompt(e, &eni); err != nil {
				return err
			}
		}
	}
	return nil
}

// promptRefused prompts the local ends of those flows that programs refused a packet of, since a rule or a group went that they lived by:
// what was on its way to an end that only listens met that, and nothing told this end. A flow that is still allowed is never prompted, and
// one that was not asked about since has nothing that anybody waits for.
func (d *Datapath) promptRefused(over []Flow) error {
	c, err := d.config()
	if err != nil {
		return err
	}
	p := prompter{log: d.log, mesh: c.Mesh}
	defer p.close()
	for i, n := 0, 0; i < len(over) && n < maxPrompts; i++ {
		if over[i].Flags()&bpf.FlowDead == 0 {
			continue
		}
		for _, e := range [...]*bpf.Flow{&over[i].Opening, &over[i].Reply} {
			if !promptable(e) {
				continue
			}
			var eni bpf.ENI
			if err := d.coll.Maps[mapENIs].Lookup(bpf.VPCAddr{Vpc: e.DestVPC(), Addr: e.Daddr}, &eni); err != nil {
				continue // it is gone, and its sockets with it
			}
			n++
			if err := p.prompt(e, &eni); err != nil {
				return err
			}
		}
	}
	return nil
}

// promptable says whether an entry leads to a TCP end on this node that may wait.
func promptable(e *bpf.Flow) bool {
	return e.Id != 0 && e.Key.Protocol == unix.IPPROTO_TCP && bpf.Next(e.Next) == bpf.NextWorkload && bpf.FlowFlag(e.Flags)&bpf.FlowClosed == 0
}

// prompter sends prompts. What cannot be sent is left out: such an interface is on its way out, and its flows with it.
type prompter struct {
	log  *slog.Logger
	mesh uint32
	fd   int // 0: no socket yet
}

// prompt sends one to the workload that an entry leads to.
func (p *prompter) prompt(e *bpf.Flow, eni *bpf.ENI) error {
	if p.fd == 0 {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("prompt ends of flows that are over: %w", err)
		}
		if err := markAnswers(fd); err != nil {
			_ = unix.Close(fd)
			return fmt.Errorf("prompt ends of flows that are over: %w", err)
		}
		p.fd = fd
	}
	if err := unix.Sendto(p.fd, promptFrame(e, eni, p.mesh), 0, &unix.SockaddrLinklayer{Ifindex: int(eni.Ifindex)}); err != nil {
		p.log.Debug("prompt an end of a flow that is over", logkey.Ifindex, eni.Ifindex, logkey.Error, err)
	}
	return nil
}

func (p *prompter) close() {
	if p.fd != 0 {
		_ = unix.Close(p.fd)
	}
}

// permissionGone reports whether the steps take away rows of connections, or of their targets.
func permissionGone(steps []step, tables *outer) bool {
	if targetsGone(tables) {
		return true
	}
	for _, s := range steps {
		switch c := s.(type) {
		case change[bpf.ServiceKey, bpf.Service]:
			if len(c.remove) > 0 {
				return true
			}
		case change[bpf.GrantTargetKey, bpf.GrantTarget]:
			if len(c.remove) > 0 {
				return true
			}
		case change[bpf.GrantKey, bpf.Grant]:
			if len(c.remove) > 0 {
				return true
			}
		}
	}
	return false
}

// targetsGone reports whether a table goes, or comes without a target that it listed.
func targetsGone(tables *outer) bool {
	if len(tables.remove) > 0 {
		return true
	}
	for _, id := range tables.put {
		for line := range strings.Lines(tables.known[id]) {
			target, _, weighted := strings.Cut(line, " ")
			if weighted && !strings.Contains(tables.texts[id], "\n"+target+" ") {
				return true
			}
		}
	}
	return false
}

// promptFrame is the prompt to the workload that an entry leads to, from whom that workload talks to.
func promptFrame(e *bpf.Flow, eni *bpf.ENI, mesh uint32) []byte {
	ip, addresses, kind := promptIPv4(e), 12, uint16(unix.ETH_P_IP)
	if e.ReverseView&bpf.KeyIPv6 != 0 {
		ip, addresses, kind = promptIPv6(e, mesh), 8, unix.ETH_P_IPV6
	}
	f := make([]byte, 14, promptSize)
	copy(f, eni.Mac[:])
	copy(f[6:], eni.GatewayMac[:])
	binary.BigEndian.PutUint16(f[12:], kind)
	const ack, window = 0x10, 1024
	tcp := binary.NativeEndian.AppendUint16(nil, e.Sport)
	tcp = binary.NativeEndian.AppendUint16(tcp, e.Dport)
	tcp = append(tcp, 0, 0, 0, 0, 0, 0, 0, 0, 5<<4, ack, window>>8, window&0xff, 0, 0, 0, 0)
	tcp = append(tcp, make([]byte, promptData)...)
	pseudo := append(append([]byte{}, ip[addresses:]...), 0, unix.IPPROTO_TCP, 0, byte(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], ^sum16(append(pseudo, tcp...)))
	return append(append(f, ip...), tcp...)
}

func promptIPv4(e *bpf.Flow) []byte {
	ip := []byte{0x45, 0, 0, 20 + 20 + promptData, 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0}
	ip = binary.NativeEndian.AppendUint32(ip, e.Saddr)
	ip = binary.NativeEndian.AppendUint32(ip, e.Daddr)
	binary.BigEndian.PutUint16(ip[10:], ^sum16(ip))
	return ip
}

func promptIPv6(e *bpf.Flow, mesh uint32) []byte {
	ip := []byte{6 << 4, 0, 0, 0, 0, 20 + promptData, unix.IPPROTO_TCP, 64}
	from := api.IPv6Address(mesh, e.DestVPC(), bpf.Addr(e.Saddr))
	if bpf.View(e.ReverseView&^bpf.KeyIPv6) == bpf.ViewClient {
		from = api.Overlay{Mesh: mesh, VPC: e.SourceVPC(), Host: api.AddrHost(bpf.Addr(e.Saddr)), Tag: e.Tag}.Addr()
	}
	ip = append(ip, from.AsSlice()...)
	return append(ip, api.IPv6Address(mesh, e.DestVPC(), bpf.Addr(e.Daddr)).AsSlice()...)
}

// sum16 is the one's complement sum (RFC 1071) of an even number of bytes.
func sum16(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
