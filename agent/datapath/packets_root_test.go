package datapath

import (
	"net"
	"testing"
)

func (w *workload) listenUDP(t *testing.T, address string) *net.UDPConn {
	t.Helper()
	var c net.PacketConn
	if err := w.Do(func() (err error) { c, err = net.ListenPacket("udp", address); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}
