package oracle

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/netns"
	"github.com/culvert-net/culvert/internal/plantest"
)

// probeMark begins the payload of every probe, and is the upper half of a SYN's sequence number.
const (
	probeText = "CULVERT-ORACLE-probe"
	probeSeq  = 0x464f0000
)

// Probe is a packet that somebody, such as a workload, sends again and again.
type Probe struct {
	From   string // namespace
	Source netip.Addr
	To     netip.AddrPort
	// Allowed: it must arrive, so that who listens is known to hear.
	Allowed bool

	// Quoted: a router may tell the sender of an error, and quote the probe.
	Quoted bool

	Interface string  // to send by; empty: eni0
	MAC       [6]byte // to send to; zero: one that nobody has
}

func (p Probe) String() string { return fmt.Sprintf("%s (%s) → %s", p.From, p.Source, p.To) }

// Place is an interface at which probes would arrive.
type Place struct{ Namespace, Interface string }

// Forbidden sends probes and listens for them, until Stop.
type Forbidden struct {
	probes []Probe
	sent   []atomic.Int64
	heard  []atomic.Int64
	cancel context.CancelFunc
	wg     sync.WaitGroup
	fds    []*os.File

	mu   sync.Mutex
	errs []error // at most maxTold
}

const maxTold = 20

// StartForbidden sends every probe twice per period, as UDP and as a TCP SYN, and listens at the places.
func StartForbidden(probes []Probe, places []Place, period time.Duration) (*Forbidden, error) {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Forbidden{probes: probes, sent: make([]atomic.Int64, len(probes)), heard: make([]atomic.Int64, len(probes)),
		cancel: cancel}
	for _, at := range places {
		file, _, err := packetSocket(at.Namespace, at.Interface, true)
		if err != nil {
			f.Stop()
			return nil, err
		}
		f.fds = append(f.fds, file)
		f.wg.Go(func() { f.listen(at, file) })
	}
	for i, p := range probes {
		file, ifi, err := packetSocket(p.From, cmp.Or(p.Interface, "eni0"), false)
		if err != nil {
			f.Stop()
			return nil, err
		}
		f.wg.Go(func() { f.send(ctx, i, file, ifi, period) })
	}
	return f, nil
}

// packetSocket opens one at an interface: to listen to what comes in, or to send.
func packetSocket(namespace, ifname string, listen bool) (f *os.File, ifi *net.Interface, err error) {
	err = netns.Do(netns.Path(namespace), func() error {
		if ifi, err = net.InterfaceByName(ifname); err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		protocol := uint16(0)
		if listen {
			const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8
			protocol = all
			err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20))
		}
		if err = errors.Join(err, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: ifi.Index})); err != nil {
			unix.Close(fd)
			return err
		}
		f = os.NewFile(uintptr(fd), "packet")
		return nil
	})
	if err != nil {
		err = fmt.Errorf("packets at %s in %s: %w", ifname, namespace, err)
	}
	return f, ifi, err
}

// send writes frames; the datapath does not look at the destination MAC.
func (f *Forbidden) send(ctx context.Context, i int, file *os.File, ifi *net.Interface, period time.Duration) {
	defer file.Close()
	p := f.probes[i]
	to := cmp.Or(p.MAC, [6]byte{2})
	tick := time.NewTicker(period)
	defer tick.Stop()
	for n := uint16(0); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		port := 1024 + n%30000
		text := binary.BigEndian.AppendUint16([]byte(probeText), uint16(i))
		udp := plantest.IP{Source: p.Source, Dest: p.To.Addr(), Protocol: 17, SourcePort: port, DestPort: p.To.Port(), Payload: text}
		tcp := plantest.IP{Source: p.Source, Dest: p.To.Addr(), Protocol: 6, SourcePort: port, DestPort: p.To.Port(),
			Flags: plantest.SYN, Seq: probeSeq | uint32(i)}
		for _, packet := range []plantest.IP{udp, tcp} {
			if p.Allowed && packet.Protocol == 6 {
				continue // it would open a connection that nobody goes on with
			}
			frame := plantest.Frame(to, [6]byte(ifi.HardwareAddr), unix.ETH_P_IP, packet.Bytes())
			// A link that is down for a moment sends nothing; what is dropped at its egress was sent.
			if _, err := file.Write(frame); err == nil || errors.Is(err, unix.ENOBUFS) {
				f.sent[i].Add(1)
			}
		}
	}
}

func (f *Forbidden) listen(at Place, file *os.File) {
	buf := make([]byte, 2048)
	for {
		n, err := file.Read(buf)
		if errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			return
		}
		if i, ok := probeIn(buf[:n]); ok && i < len(f.probes) {
			p := f.probes[i]
			if p.Quoted && p.From == at.Namespace {
				continue
			}
			f.heard[i].Add(1)
			if !p.Allowed {
				f.tell(fmt.Errorf("%s arrived at %s in %s: % x", p, at.Interface, at.Namespace, buf[:min(n, 80)]))
			}
		}
	}
}

// probeIn finds a probe's number in a frame, whatever its addresses have become.
func probeIn(frame []byte) (int, bool) {
	if i := bytes.Index(frame, []byte(probeText)); i >= 0 && len(frame) >= i+len(probeText)+2 {
		return int(binary.BigEndian.Uint16(frame[i+len(probeText):])), true
	}
	for _, at := range []struct{ protocol, l4 int }{{14 + 9, 14 + 20}, {14 + 6, 14 + 40}} { // IPv4, IPv6
		if len(frame) >= at.l4+20 && frame[at.protocol] == 6 && frame[at.l4+13] == plantest.SYN {
			if seq := binary.BigEndian.Uint32(frame[at.l4+4:]); seq&0xffff0000 == probeSeq {
				return int(seq & 0xffff), true
			}
		}
	}
	return 0, false
}

func (f *Forbidden) tell(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.errs) < maxTold {
		f.errs = append(f.errs, err)
	}
}

// Err says what passed that must not.
func (f *Forbidden) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.errs...)
}

// Deaf names the allowed probes that never arrived, and the forbidden ones that were never sent.
func (f *Forbidden) Deaf() error {
	var errs []error
	for i, p := range f.probes {
		switch {
		case f.sent[i].Load() == 0:
			errs = append(errs, fmt.Errorf("%s was never sent", p))
		case p.Allowed && f.heard[i].Load() == 0:
			errs = append(errs, fmt.Errorf("%s is allowed and never arrived, so nothing is proved", p))
		}
	}
	return errors.Join(errs...)
}

// Sent counts the forbidden probes.
func (f *Forbidden) Sent() (n int64) {
	for i := range f.probes {
		if !f.probes[i].Allowed {
			n += f.sent[i].Load()
		}
	}
	return n
}

// Stop ends it.
func (f *Forbidden) Stop() {
	f.cancel()
	for _, file := range f.fds {
		file.Close()
	}
	f.wg.Wait()
}
