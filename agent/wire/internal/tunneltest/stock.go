package tunneltest

import (
	"context"
	"net"
	"os"
	"strconv"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/culvert-net/culvert/agent/wire/tunnel"
)

// Stock is the [Body] of wireguard-go as its authors ship it: the other end of interoperation, and what a benchmark
// compares with.
func Stock(ctx context.Context, cfg tunnel.Config) error {
	iface, err := tun.CreateTUN(cfg.Interface, tunnel.DefaultMTU)
	if err != nil {
		return err
	}
	dev := device.NewDevice(iface, conn.NewStdNetBind(), device.NewLogger(device.LogLevelError, ""))
	defer dev.Close()
	l, err := net.Listen("unix", cfg.Socket)
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go dev.IpcHandle(c)
		}
	}()
	if err := os.WriteFile(cfg.ReadyFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-dev.Wait():
	}
	return nil
}
