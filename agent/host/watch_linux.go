package host

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	nfnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchPause is how long Watch waits before it subscribes again after the kernel ended a subscription (its buffer
// overran).
const watchPause = 100 * time.Millisecond

// watched are the kernel's groups that tell of what this package and the datapath set up: links, filters, addresses,
// IPv6 routes, forwarding and rp_filter, nftables. The kernel does not tell of tcx programs.
var watched = map[int][]uint32{
	unix.NETLINK_ROUTE: {
		unix.RTNLGRP_LINK, unix.RTNLGRP_TC, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
	},
	unix.NETLINK_NETFILTER: {unix.NFNLGRP_NFTABLES},
}

// Watch implements Host.
func (n *Netlink) Watch(ctx context.Context, wake func()) error {
	for {
		if err := n.watchOnce(ctx, wake); err != nil || ctx.Err() != nil {
			return err
		}
		wake()
		pause := time.NewTimer(watchPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
	}
}

// watchOnce runs one subscription until ctx ends or the kernel ended it.
func (n *Netlink) watchOnce(ctx context.Context, wake func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for protocol, groups := range watched {
		c, err := n.subscribe(protocol, groups)
		if err != nil {
			cancel()
			return fmt.Errorf("watch the host: %w", err)
		}
		stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // which ends Receive
		wg.Go(func() {
			defer cancel()
			defer stop()
			defer c.Close()
			for {
				messages, err := c.Receive()
				if err != nil {
					return
				}
				for _, m := range messages {
					if concerns(protocol, m) {
						wake()
						break
					}
				}
			}
		})
	}
	<-ctx.Done()
	return nil
}

func (n *Netlink) subscribe(protocol int, groups []uint32) (*nfnl.Conn, error) {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	c, err := nfnl.Dial(protocol, &nfnl.Config{NetNS: int(s.file.Fd())})
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if err := c.JoinGroup(g); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	return c, nil
}

// rtmProtocolAt is where struct rtmsg has rtm_protocol, in bytes.
const rtmProtocolAt = 5

// concerns leaves out what others do all day: routes that are not ours, tables that are not ours.
func concerns(protocol int, m nfnl.Message) bool {
	switch {
	case protocol == unix.NETLINK_NETFILTER:
		return bytes.Contains(m.Data, append([]byte(tableName), 0))
	case m.Header.Type == unix.RTM_NEWROUTE || m.Header.Type == unix.RTM_DELROUTE:
		return len(m.Data) > rtmProtocolAt && m.Data[rtmProtocolAt] == byte(routeProtocol)
	}
	return true
}
