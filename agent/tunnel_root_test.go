package agent

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/tunnel"
	"github.com/culvert-net/culvert/internal/netlab"
)

// holdTUN makes a TUN that stays, in the thread's namespace, and holds it until release.
func holdTUN(name string) (release func(), err error) {
	stay := func(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1) }
	tun, err := netlab.OpenTUN(name, unix.IFF_TUN|unix.IFF_VNET_HDR, stay)
	if err != nil {
		return nil, err
	}
	return func() { tun.Close() }, nil
}

// What one kind of tunnel left is in the way of the other.
func TestTunnelOfTheOtherKind(t *testing.T) {
	ns := netlab.New(t).Namespace("node")
	h := host.New(host.Config{Netns: ns.Path()})
	t.Cleanup(h.Close)
	if err := ns.Do(func() error {
		release, err := holdTUN(host.DefaultTunnel)
		if err != nil {
			return err
		}
		err = besideATunnel(h)
		release()
		if err != nil {
			return err
		}
		return afterATunnel(h)
	}); err != nil {
		t.Error(err)
	}
}

func kernelTunnel() host.TunnelSpec {
	return host.TunnelSpec{Name: host.DefaultTunnel, MTU: 1420, Kernel: true}
}

// wireGuardless demands that the kernel without WireGuard is named, unless it must have it.
func wireGuardless(err error) bool {
	return errors.Is(err, wire.ErrNoModule) && os.Getenv("CULVERT_KERNEL_WIREGUARD") == ""
}

func besideATunnel(h host.Host) error {
	before, err := h.Link(host.DefaultTunnel)
	if err != nil {
		return err
	}
	if _, err := (tunnelLinks{h}).EnsureTunnel(kernelTunnel()); err == nil ||
		!wireGuardless(err) && !strings.Contains(err.Error(), "stop culvert tunnel") {
		return errors.Join(errors.New("beside a tunnel it does not say what to do"), err)
	}
	if now, err := h.Link(host.DefaultTunnel); err != nil || now.Ifindex != before.Ifindex {
		return errors.Join(errors.New("the tunnel's link was replaced under it"), err)
	}
	return nil
}

// afterATunnel finds a TUN that nobody holds.
func afterATunnel(h host.Host) error {
	before, err := h.Link(host.DefaultTunnel)
	if err != nil {
		return err
	}
	spec := kernelTunnel()
	l, err := (tunnelLinks{h}).EnsureTunnel(spec)
	if wireGuardless(err) {
		if now, err := h.Link(spec.Name); err != nil || now.Ifindex != before.Ifindex {
			return errors.Join(errors.New("the TUN is gone, for nothing"), err)
		}
		return nil
	}
	if err != nil || l.Ifindex == before.Ifindex || l.Up || !l.Closed {
		return errors.Join(errors.New("the TUN was not replaced by a closed link"), err)
	}
	holder, err := holdTUN(spec.Name)
	holder()
	if !errors.Is(err, unix.EINVAL) {
		return errors.Join(errors.New("it is still a TUN"), err)
	}
	if err := tunnel.Delete(spec.Name); !errors.Is(err, tunnel.ErrKernel) { // it attaches as a tunnel process does
		return errors.Join(errors.New("a tunnel process beside the kernel's does not say so"), err)
	}
	if err := tunnel.DeleteTUN(spec.Name); err != nil {
		return err
	}
	if now, err := h.Link(spec.Name); err != nil || now.Ifindex != l.Ifindex {
		return errors.Join(errors.New("what deletes TUNs deleted the kernel's link"), err)
	}
	spec.Kernel = false
	if _, err = (tunnelLinks{h}).EnsureTunnel(spec); !errors.Is(err, host.ErrNoLink) {
		return errors.Join(errors.New("back to a process: the kernel's link is not removed"), err)
	}
	return nil
}
