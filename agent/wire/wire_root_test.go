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

// TestContractTunnel runs against a tunnel process; its interface stays down, so that nothing is sent.
func TestContractTunnel(t *testing.T) {
	lab := netlab.New(t)
	ns := lab.Namespace("a")
	contract(t, func(t *testing.T) wire.Device {
		n := tunneltest.NewNode(t, ns, 1)
		n.Start()
		return n.Device
	})
}
