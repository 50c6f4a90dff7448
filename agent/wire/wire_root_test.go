package wire_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/internal/tunneltest"
	"github.com/culvert-net/culvert/internal/netlab"
)

func TestMain(m *testing.M) {
	tunneltest.Main(nil)
	os.Exit(m.Run())
}

// kernelToo says whether this kernel has WireGuard, which scripts/test-kernels knows of its guests.
func kernelToo() bool { return os.Getenv("CULVERT_KERNEL_WIREGUARD") != "" }

// TestContractTunnel runs against a tunnel process; its interface stays down, so that nothing is sent. So it does
// against the kernel's WireGuard, where there is one.
func TestContractTunnel(t *testing.T) {
	lab := netlab.New(t)
	kinds := map[string]bool{"process": false}
	if kernelToo() {
		kinds["kernel"] = true
	}
	for name, kernel := range kinds {
		ns := lab.Namespace(name)
		t.Run(name, func(t *testing.T) {
			contract(t, func(t *testing.T) wire.Device {
				n := tunneltest.NewNode(t, ns, 1)
				n.Kernel = kernel
				n.Start()
				if kernel {
					t.Cleanup(func() { ns.DeleteLink(n.Config.Interface) })
				}
				return n.Wire()
			})
		})
	}
}

// TestMeddlingOnTheTunnel gives a tunnel process what root can give it by hand: it is seen, and one step takes it away.
func TestMeddlingOnTheTunnel(t *testing.T) {
	n := tunneltest.NewNode(t, netlab.New(t).Namespace("meddled"), 1)
	n.Start()
	peer := wire.Peer{PublicKey: testKey(t), AllowedIPs: prefixes("fd00::/92")}
	n.Feed(peer)
	conn, err := net.Dial("unix", n.Config.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "set=1\nfwmark=51820\npublic_key=%x\npreshared_key=%s\n\n", peer.PublicKey[:], strings.Repeat("5a", wire.KeyLen))
	answer := make([]byte, len("errno=0\n"))
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "errno=0\n" {
		t.Fatalf("answer %q, %v", answer, err)
	}
	d := n.Wire()
	have := observe(t, d)
	if have.Mark != 51820 || len(have.Peers) != 1 || !have.Peers[0].Preshared {
		t.Fatalf("device holds %+v", have)
	}
	apply(t, d, wire.Diff([]wire.Peer{peer}, have, time.Now()))
	if err := d.SetKey(t.Context(), n.Key, tunneltest.Port); err != nil {
		t.Fatal(err)
	}
	whole := peers(peer)
	whole.PublicKey, whole.ListenPort = n.Key.Public(), tunneltest.Port
	want(t, d, whole)
}
