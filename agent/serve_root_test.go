package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/datapath"
	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/plan"
)

// childArg as first argument makes the test binary an agent; its configuration follows as JSON.
const childArg = "culvert-agent-test-process"

// patience bounds every wait.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	if len(os.Args) != 3 || os.Args[1] != childArg {
		os.Exit(m.Run())
	}
	var cfg Config
	err := json.Unmarshal([]byte(os.Args[2]), &cfg)
	if err == nil {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err = Serve(ctx, cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// machineLab is a node in a namespace, with two workloads of one VPC, and no server or tunnel anywhere.
type machineLab struct {
	t                *testing.T
	node, cart, till *netlab.Namespace
	cfg              Config
	dir              state.Dir
	key              ed25519.PrivateKey
}

const tillENI = "eni-00000000000000002"

func newMachineLab(t *testing.T) *machineLab {
	t.Helper()
	lab := netlab.New(t)
	m := &machineLab{t: t, node: lab.Namespace("node"), cart: lab.Namespace("cart"), till: lab.Namespace("till")}
	tmp, err := os.MkdirTemp("", "cva-") // short: a socket's path is limited
	if err != nil {
		t.Fatal(err)
	}
	pins := "/sys/fs/bpf/" + filepath.Base(tmp)
	t.Cleanup(func() {
		if err := errors.Join(datapath.RemovePins(pins), os.RemoveAll(pins), os.RemoveAll(tmp)); err != nil {
			t.Error(err)
		}
	})
	m.dir = state.Dir(filepath.Join(tmp, "node"))
	m.cfg = Config{DataDir: string(m.dir), LocalSocket: filepath.Join(tmp, "agent.sock"), TunnelSocket: filepath.Join(tmp, "tunnel.sock"),
		PinDir: pins, FlowInterval: time.Second, ReadyFile: filepath.Join(tmp, "ready")}
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	m.key = priv
	keyPEM, certPEM := selfSigned(t)
	if err := errors.Join(m.dir.Make(), m.dir.SaveIdentity(&state.Identity{Node: "node-1", Name: "a", Number: 1, Mesh: 7, ViewKey: pub,
		KeyPEM: keyPEM, CertificatePEM: certPEM, CAPEM: certPEM, Servers: []string{"https://127.0.0.1:1"}})); err != nil {
		t.Fatal(err)
	}
	return m
}

// know gives the node the view that it would have from before, and its user's wishes.
func (m *machineLab) know() {
	m.t.Helper()
	v := testView(1)
	second := v.ENIs[0]
	second.ID, second.Number, second.Address = tillENI, 12, netip.MustParseAddr("10.0.1.6")
	v.ENIs = append(v.ENIs, second)
	v.Addresses = append(v.Addresses, api.ViewAddress{VPC: 5, Address: second.Address, Type: api.ENIWorkload, ENI: tillENI,
		Number: 12, Groups: []string{"sg-1"}})
	v.GossipKeys = [][]byte{bytes.Repeat([]byte{1}, 32)}
	v.Members = []api.ViewMember{{Node: "node-2", Address: "127.0.0.2:7946"}}
	s, err := state.SignView(m.key, v)
	err = errors.Join(err, m.dir.SaveView(s), m.dir.SaveAttachments([]plan.Attachment{
		{ENI: eni, Netns: m.cart.Path(), Interface: "eni0"}, {ENI: tillENI, Netns: m.till.Path(), Interface: "eni0"},
	}))
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machineLab) start() *netlab.Process {
	m.t.Helper()
	text, err := json.Marshal(m.cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	return m.node.Start(exe, childArg, string(text))
}

func (m *machineLab) startReady() *netlab.Process {
	m.t.Helper()
	p := m.start()
	netlab.Eventually(m.t, patience, func() bool {
		_, err := os.Stat(m.cfg.ReadyFile)
		return err == nil
	}, "the agent is ready")
	return p
}

func (m *machineLab) status() local.Status {
	m.t.Helper()
	s, err := local.NewClient(m.cfg.LocalSocket).Status(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// resolves asks the VPC's resolver from the cart.
func (m *machineLab) resolves(name string) (addrs []netip.Addr, err error) {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (c net.Conn, err error) {
		return c, m.cart.Do(func() (err error) {
			c, err = (&net.Dialer{}).DialContext(ctx, network, "10.0.0.2:53")
			return err
		})
	}}
	ctx, cancel := context.WithTimeout(m.t.Context(), 3*time.Second)
	defer cancel()
	return r.LookupNetIP(ctx, "ip4", name)
}

// connect opens a TCP connection from the cart to the till and has five bytes echoed. It stays open until the test ends.
func (m *machineLab) connect() (net.Conn, error) {
	var l net.Listener
	if err := m.till.Do(func() (err error) {
		l, err = net.Listen("tcp4", "10.0.1.6:80")
		return err
	}); err != nil {
		return nil, err
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	var c net.Conn
	if err := m.cart.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", "10.0.1.6:80", 30*time.Second)
		return err
	}); err != nil {
		return nil, err
	}
	m.t.Cleanup(func() { c.Close() })
	return c, echo(c)
}

// echo sends five bytes and waits for them.
func echo(c net.Conn) error {
	errTime := c.SetDeadline(time.Now().Add(30 * time.Second)) // first: the one of the time before may be over
	_, errWrite := c.Write([]byte("hello"))
	_, errRead := io.ReadFull(c, make([]byte, 5))
	return errors.Join(errTime, errWrite, errRead)
}

// flows are records of one ENI on the disk, with the port at either end.
func (m *machineLab) flows(id string, port uint16) []api.FlowRecord {
	m.t.Helper()
	records, err := flow.Query(m.t.Context(), flow.Dir(m.dir.Path(flowDir)), api.FlowFilter{Interface: id, Port: port})
	if err != nil {
		m.t.Fatal(err)
	}
	return records
}

// checkServing returns a connection that it opened.
func (m *machineLab) checkServing() net.Conn {
	m.t.Helper()
	addrs, err := m.resolves("ledger.pay.internal")
	if err != nil || !slices.Equal(addrs, []netip.Addr{netip.MustParseAddr("10.0.1.200")}) {
		m.t.Errorf("ledger.pay.internal is %v, %v", addrs, err)
	}
	c, err := m.connect()
	if err != nil {
		m.t.Fatalf("from workload to workload: %v", err)
	}
	return c
}

// An agent works from its disk alone; killed, it leaves forwarding up; its successor takes over; asked to end, it records
// what was last, and what it made stays. Then the node leaves.
func TestServeFromDiskThroughCrashAndLeave(t *testing.T) {
	m := newMachineLab(t)
	m.know()
	p := m.startReady()
	first := m.checkServing()
	s := m.status()
	if len(s.Workloads) != 2 || s.Workloads[0].State != "up" || s.Connected || s.Generation == 0 ||
		len(s.Members) != 1 || s.Members[0].State != "unknown" {
		t.Errorf("status %+v", s)
	}
	if !slices.ContainsFunc(s.Errors, func(e string) bool { return strings.Contains(e, "is culvert tunnel running?") }) {
		t.Errorf("nothing is said of the missing tunnel: %v", s.Errors)
	}
	if !slices.ContainsFunc(s.Counters, func(c local.Counter) bool {
		return c.Hook == "workload" && c.ENI == eni && c.Reason == "FORWARDED"
	}) {
		t.Errorf("counters %+v", s.Counters)
	}
	netlab.Eventually(t, patience, func() bool { return len(m.flows(eni, 53)) > 0 && len(m.flows(tillENI, 80)) > 0 },
		"the name's and the connection's flows are recorded, the latter at its receiver too")
	out, err := m.node.Try(os.Args[0], childArg, string(mustJSON(t, m.cfg)))
	if err == nil || !strings.Contains(out, "another process works with this data directory") {
		t.Errorf("a second agent: %v, %s", err, out)
	}

	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	second, err := m.connect()
	if err := errors.Join(err, echo(first), second.Close()); err != nil {
		t.Errorf("without an agent: %v", err)
	}
	if err := os.Remove(m.cfg.ReadyFile); err != nil {
		t.Fatal(err)
	}
	p = m.startReady()
	third := m.checkServing()
	if next := m.status().Generation; next <= s.Generation {
		t.Errorf("generation %d after %d: live flows would not be judged again", next, s.Generation)
	}
	closed := func(r api.FlowRecord) bool { return r.State == api.FlowClosed }
	netlab.Eventually(t, patience, func() bool { return slices.ContainsFunc(m.flows(eni, 80), closed) },
		"the flow that came and went without an agent is recorded")

	last, err := m.connect()
	if err != nil {
		t.Fatal(err)
	}
	port := last.LocalAddr().(*net.TCPAddr).Port
	p.Stop()
	if err := p.Wait(); err != nil {
		t.Fatalf("asked to end: %v", err)
	}
	if r := m.flows(eni, uint16(port)); len(r) == 0 || r[0].State != api.FlowOpen || r[0].Packets == 0 || r[0].Account != "1" {
		t.Errorf("what was last is recorded as %+v", r)
	}
	if _, err := os.Stat(m.cfg.ReadyFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ready file: %v", err)
	}
	if err := errors.Join(echo(first), echo(third), echo(last)); err != nil {
		t.Errorf("after a clean end: %v", err)
	}
	m.leave()
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (m *machineLab) leave() {
	m.t.Helper()
	if err := m.node.Do(func() error {
		_, err := Leave(m.t.Context(), m.cfg, LeaveOptions{Force: true, Local: true})
		return err
	}); err != nil {
		m.t.Fatal(err)
	}
	for _, ns := range []*netlab.Namespace{m.node, m.cart, m.till} {
		if out := ns.Exec("ip", "-o", "link"); strings.Count(out, "\n") != 1 {
			m.t.Errorf("left in %s:\n%s", ns.Name, out)
		}
	}
	if out := m.node.Exec("nft", "list", "ruleset"); strings.TrimSpace(out) != "" {
		m.t.Errorf("left of the door:\n%s", out)
	}
	for _, path := range []string{string(m.dir), m.cfg.PinDir + "/v*"} {
		if left, err := filepath.Glob(path); err != nil || len(left) != 0 {
			m.t.Errorf("left: %v, %v", left, err)
		}
	}
}

// No state means closed: a node that has never heard a view lets nothing through, and says why.
func TestServeWithoutAViewStaysClosed(t *testing.T) {
	m := newMachineLab(t)
	m.start()
	client := local.NewClient(m.cfg.LocalSocket)
	var s local.Status
	netlab.Eventually(t, patience, func() (ok bool) {
		var err error
		s, err = client.Status(t.Context())
		return err == nil && slices.ContainsFunc(s.Errors, func(e string) bool { return strings.Contains(e, "no view yet") })
	}, "the agent says that it has no view")
	if s.Generation != 0 {
		t.Errorf("status %+v", s)
	}
	if _, err := os.Stat(m.cfg.ReadyFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it says that it is ready: %v", err)
	}
}
