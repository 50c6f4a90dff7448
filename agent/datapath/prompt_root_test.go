package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/plan"
)

// TestEveryPromptIsAnswered: Linux answers each, however soon after another, as the last one may be what counts.
func TestEveryPromptIsAnswered(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) { everyPromptIsAnswered(t, false) })
	t.Run("IPv6", func(t *testing.T) { everyPromptIsAnswered(t, true) })
}

func everyPromptIsAnswered(t *testing.T, ipv6 bool) {
	t.Helper()
	lab := netlab.New(t)
	far, near := lab.Namespace("far"), lab.Namespace("near")
	lab.Veth(far, "v", near, "v")
	farAddr, nearAddr := netip.MustParseAddr("10.0.1.5"), netip.MustParseAddr("10.0.1.6")
	far.AddAddress("v", netip.PrefixFrom(farAddr, 24))
	near.AddAddress("v", netip.PrefixFrom(nearAddr, 24))
	toTarget := bpf.Flow{Saddr: bpf.NetAddr(farAddr), Daddr: bpf.NetAddr(nearAddr), Dport: bpf.NetPort(443), PeerVpc: shop}
	if ipv6 {
		toTarget.ReverseView = bpf.KeyIPv6
		farAddr, nearAddr = api.IPv6Address(testMesh, shop, farAddr), api.IPv6Address(testMesh, shop, nearAddr)
		far.AddAddress("v", netip.PrefixFrom(farAddr, 64))
		near.AddAddress("v", netip.PrefixFrom(nearAddr, 64))
		far.AwaitAddress(farAddr)
		near.AwaitAddress(nearAddr)
	}
	var eni bpf.ENI
	var listener net.Listener
	if err := near.Do(func() (err error) {
		ifi, err := net.InterfaceByName("v")
		if err == nil {
			copy(eni.Mac[:], ifi.HardwareAddr)
			listener, err = net.Listen("tcp", netip.AddrPortFrom(nearAddr, 443).String())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var conn net.Conn
	var ifindex int
	if err := far.Do(func() (err error) {
		ifi, err := net.InterfaceByName("v")
		if err == nil {
			copy(eni.GatewayMac[:], ifi.HardwareAddr)
			ifindex = ifi.Index
			conn, err = new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()

	toTarget.Sport = bpf.NetPort(uint16(conn.LocalAddr().(*net.TCPAddr).Port))
	frame := promptFrame(&toTarget, &eni, testMesh)
	const prompts = 5
	before := sentSegments(t, near)
	if err := far.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for range prompts {
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: ifindex}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	answers := 0
	netlab.Eventually(t, 5*time.Second, func() bool {
		answers = sentSegments(t, near) - before
		return answers >= prompts
	}, fmt.Sprintf("all of %d prompts are answered", prompts))
	if answers != prompts {
		t.Errorf("%d answers to %d prompts", answers, prompts)
	}
}

// sentSegments are the TCP segments that a namespace has sent.
func sentSegments(t *testing.T, n *netlab.Namespace) (sent int) {
	t.Helper()
	err := n.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if words[0] != "Tcp:" {
				continue
			}
			if names == nil {
				names = words
				continue
			}
			for i, name := range names {
				if name == "OutSegs" {
					sent, err = strconv.Atoi(words[i])
					return err
				}
			}
		}
		return fmt.Errorf("no count of TCP segments in %q", text)
	})
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

// An end that only listens hears of a rule that went that its flow lived by, whichever one, when the next packet for it is refused; a
// rule more tells nobody, and no end of a flow that is allowed is told.
func TestRulesThatWentAreTold(t *testing.T) {
	const other, more = 1001, 1002 // the sets that take the place of the one that allows all
	sets := []plan.RuleSet{{ID: other, Text: "sgr-other 17 0-65535 0.0.0.0/0\n"},
		{ID: more, Text: "sgr-more 6 1-1 10.0.0.0/8\nsgr-all 256 0-65535 0.0.0.0/0\nsgr-all 256 0-65535 ::/0\n"}}
	m := newMesh(t)
	cart, vault := m.cart, m.vault
	calm, calmFar := connect(t, cart, vault, "10.0.1.201:443", ":8443")
	endpoint := func(p *plan.Plan, set uint32) {
		for i := range p.Addresses {
			if p.Addresses[i].Address == addr("10.0.1.200") {
				p.Addresses[i].Rules = set
			}
		}
	}
	grant := func(p *plan.Plan, change func(*plan.Grant)) {
		for i := range p.Grants {
			if p.Grants[i].Connection == 900 {
				change(&p.Grants[i])
			}
		}
	}
	for name, c := range map[string]struct {
		host *meshHost
		goes func(p *plan.Plan, set uint32)
	}{
		"the endpoint's": {m.a, endpoint},
		"the target's": {m.b, func(p *plan.Plan, set uint32) {
			for i := range p.ENIs {
				if p.ENIs[i].Address == m.ledger.address {
					p.ENIs[i].IngressRules = set
				}
			}
		}},
		"the load balancer's, in":  {m.b, func(p *plan.Plan, set uint32) { grant(p, func(g *plan.Grant) { g.LBRules = set }) }},
		"the load balancer's, out": {m.b, func(p *plan.Plan, set uint32) { grant(p, func(g *plan.Grant) { g.LBEgressRules = set }) }},
		"what is admitted":         {m.b, func(p *plan.Plan, set uint32) { grant(p, func(g *plan.Grant) { g.Admitted = set }) }},
	} {
		near, far := connect(t, cart, m.ledger, "10.0.1.200:443", ":8443")
		listens, talks := near, far
		if c.host == m.b {
			listens, talks = far, near
		}
		change := func(set uint32) {
			t.Helper()
			m.generation++
			p := m.plan(c.host)
			p.RuleSets = append(p.RuleSets, sets...)
			c.goes(p, set)
			m.applyPlan(c.host, p)
		}
		change(more)
		if err := errors.Join(send(near, []byte("x")), receive(far, []byte("x"))); err != nil {
			t.Errorf("%s: a rule more: %v", name, err)
		}
		change(other)
		if err := send(talks, []byte("z")); err != nil {
			t.Fatal(err)
		}
		var said error
		netlab.Eventually(t, patience, func() bool {
			now, err := BootTime()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.host.Do(func() error { _, err := c.host.dp.Sweep(t.Context(), now); return err }); err != nil {
				t.Fatal(err)
			}
			if err := listens.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			_, said = listens.Read(make([]byte, 1))
			return !errors.Is(said, os.ErrDeadlineExceeded)
		}, name+": an answer to who listens")
		if !errors.Is(said, unix.ECONNRESET) {
			t.Errorf("%s: a read on %s: %v, want a reset", name, listens.LocalAddr(), said)
		}
		change(1000) // as it was
		near.Close()
		far.Close()
	}
	if err := errors.Join(send(calm, []byte("y")), receive(calmFar, []byte("y"))); err != nil {
		t.Errorf("a flow whose rules are there: %v", err)
	}
}
