package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/culvert-net/culvert/internal/netns"
)

// Ports that servers listen on.
const (
	iperfPort = 5201
	echoPort  = 5202
)

// system is one way from a client to a server, both in namespaces.
type system struct {
	name           string
	client, server string     // names of namespaces
	dial           netip.Addr // what the client connects to
	host           bool       // all of it is one host's: no datagrams are measured
	servers        []*exec.Cmd
	crowd          *system // of another account, on the same nodes, or nil
}

// does says whether a test is one of this system's.
func (s *system) does(t test) bool {
	if t.name == "share" {
		return s.crowd != nil
	}
	return !s.host || !strings.HasPrefix(t.name, "udp") && !strings.HasPrefix(t.name, "kept")
}

// serve starts the servers and returns when clients reach both.
func (s *system) serve(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"iperf3", "-s", "-p", strconv.Itoa(iperfPort)},
		{self, "answer", fmt.Sprintf("0.0.0.0:%d", echoPort)},
	} {
		cmd, err := start(ctx, s.server, argv...)
		if err != nil {
			return err
		}
		s.servers = append(s.servers, cmd)
	}
	for _, port := range []uint16{iperfPort, echoPort} {
		if err := s.reach(ctx, port); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if s.crowd != nil {
		if err := s.crowd.serve(ctx); err != nil {
			return err
		}
	}
	return errors.Join(manyPorts(s.client), manyPorts(s.server))
}

func (s *system) stop() {
	if s.crowd != nil {
		s.crowd.stop()
	}
	for _, cmd := range s.servers {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// reach connects from the client's namespace until it works.
func (s *system) reach(ctx context.Context, port uint16) error {
	return eventually(ctx, 20*time.Second, func() error {
		return netns.Do(netns.Path(s.client), func() error {
			c, err := net.DialTimeout("tcp", netip.AddrPortFrom(s.dial, port).String(), time.Second)
			if err != nil {
				return err
			}
			return c.Close()
		})
	})
}

// manyPorts lets a namespace open thousands of connections a second to one address: each port rests for a second only
// (RFC 6191).
func manyPorts(namespace string) error {
	return netns.Do(netns.Path(namespace), func() error {
		for name, value := range map[string]string{"ip_local_port_range": "1100 65000", "tcp_tw_reuse": "1"} {
			// The file speaks of the namespace of the thread that opens it.
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
				return fmt.Errorf("namespace %s: %w", namespace, err)
			}
		}
		return nil
	})
}

// start starts a command in a namespace. It ends with the context at the latest. What it says is of no interest: whoever
// uses it fails and tells why.
func start(ctx context.Context, namespace string, argv ...string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	return cmd, begin(namespace, cmd)
}

// begin starts a command in a namespace and in a session of its own, as the mesh's processes are.
func begin(namespace string, cmd *exec.Cmd) error {
	cmd.Env = append(os.Environ(), "WG_PROCESS_FOREGROUND=1") // wireguard-go: no fork, no advice
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := netns.Start(netns.Path(namespace), cmd); err != nil {
		return fmt.Errorf("start %s in %s: %w", cmd.Args[0], namespace, err)
	}
	if err := prefer(cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return err
	}
	return nil
}

// output runs a command in a namespace to its end and returns what it prints.
func output(ctx context.Context, namespace string, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	err := begin(namespace, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s%s", strings.Join(argv, " "), err, problem.Bytes(), out.Bytes())
	}
	return out.Bytes(), nil
}

// eventually tries until it works or the time is up.
func eventually(ctx context.Context, within time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", within, err)
		case <-tick.C:
		}
	}
}
