package tunnel

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// A process that was just killed may hold its port a moment longer.
const (
	bindPatience = 2 * time.Second
	bindRetry    = 20 * time.Millisecond
)

// openRetry opens the sockets, trying again for bindPatience while the port is taken.
func openRetry(bind conn.Bind, port uint16) ([]conn.ReceiveFunc, uint16, error) {
	for deadline := time.Now().Add(bindPatience); ; {
		fns, actual, err := bind.Open(port)
		if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(deadline) {
			return fns, actual, err
		}
		<-time.After(bindRetry)
	}
}
