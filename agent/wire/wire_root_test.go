package wire_test

import (
	"os"
	"testing"

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
