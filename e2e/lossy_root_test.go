package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/bundle"
	"github.com/culvert-net/culvert/audit/verify"
)

// talker is a socket of the workload "cart" that sends to an endpoint, and counts what it sends and what comes back.
type talker struct {
	conn *net.UDPConn
	to   netip.AddrPort
	sent uint64
	back atomic.Uint64
}

func (m *lossyMesh) talk(t *testing.T, service string) *talker {
	t.Helper()
	conn, _ := socketIn(t, m.ns("cart"), 0)
	k := &talker{conn: conn, to: netip.MustParseAddrPort(m.addresses[service])}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 2048); ; {
			if _, _, err := conn.ReadFrom(buf); errors.Is(err, net.ErrClosed) {
				return
			} else if err == nil {
				k.back.Add(1)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return k
}

func (k *talker) send(t *testing.T, n int) {
	t.Helper()
	for range n {
		if _, err := k.conn.WriteToUDPAddrPort(make([]byte, lossySize), k.to); err != nil {
			t.Fatal(err)
		}
		k.sent++
	}
}

// lost is how many did not come back.
func (k *talker) lost() uint64 { return k.sent - k.back.Load() }

// awaitAnswer sends one after the other until one comes back.
func (k *talker) awaitAnswer(t *testing.T, what string) {
	t.Helper()
	before := k.back.Load()
	eventually(t, 60*time.Second, what, func() error {
		if k.send(t, 1); k.back.Load() == before {
			return errors.New("no answer")
		}
		return nil
	})
}

// settle waits until nothing comes back any more.
func (k *talker) settle(t *testing.T) {
	t.Helper()
	last, since := k.back.Load(), time.Now()
	eventually(t, 30*time.Second, "answers end", func() error {
		if now := k.back.Load(); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) < 500*time.Millisecond {
			return errors.New("one came lately")
		}
		return nil
	})
}

// TestLossIsNamed has real traffic of which the underlay drops some, and whose tunnels are killed: files and public keys alone tell how many packets
// were lost, and that the tunnel lost them, to the packet. Who has a node's key, and even the log's, then changes what the files say.
func TestLossIsNamed(t *testing.T) {
	beside(t)
	m := newLossyMesh(t)
	echoesIn(t, m.ns("ledger"), lossyPort, true)
	echoesIn(t, m.ns("ledger"), lossyPort+1, true)
	m.echoTCP(t)
	ledger, books := m.talk(t, "ledger"), m.talk(t, "books")
	ledger.awaitAnswer(t, "the ledger")
	books.awaitAnswer(t, "the books")
	dropped := m.dropSome(t, ledger)
	m.killTunnels(t, books)
	e, r := m.allTold(t)
	killed := books.lost()
	if killed < 2*sentWhileDead {
		t.Errorf("%d datagrams were lost of %d that were sent while a tunnel did not run", killed, 2*sentWhileDead)
	}
	all := m.connection(t, r, "ledger").Lost + m.connection(t, r, "books").Lost
	for service, lost := range map[string]struct{ least, most uint64 }{"ledger": {dropped - strangers, dropped}, "books": {killed, killed}} {
		c := m.connection(t, r, service)
		if c.Lost < lost.least || c.Lost > lost.most || c.Sent-c.Received != c.Lost || c.Tunnel < all || c.Tunnel > all+2*uncounted || c.Excused != 0 {
			t.Errorf("%s: %+v were lost, of %d on both connections; verify tells %+v", service, lost, all, c)
		}
		t.Logf("%s: n=%d packets were lost, strangers among them, and verify names %d; of %d in all the tunnel lost %d at most", service, lost.most,
			c.Lost, all, c.Tunnel)
	}
	t.Run("bundled", func(t *testing.T) { m.bundled(t, e, m.connection(t, r, "ledger")) })
	t.Run("edited", e.edited)
	t.Run("forged", func(t *testing.T) { m.forged(t, e) })
}

// dropSome has the underlay drop datagrams of a UDP flow and a TCP connection, and returns how many it dropped.
func (m *lossyMesh) dropSome(t *testing.T, k *talker) uint64 {
	t.Helper()
	eventually(t, 30*time.Second, "all that was sent before comes", func() error {
		if k.lost() > 0 {
			return fmt.Errorf("%d did not come back", k.lost())
		}
		return nil
	})
	end := m.lose(t, 20)
	for range 60 {
		k.send(t, 10)
		pause(t.Context(), 5*time.Millisecond)
	}
	eventually(t, 30*time.Second, "what the underlay lets through comes", func() error {
		if lost, dropped := k.lost(), m.dropped(t); lost > dropped || lost+strangers < dropped {
			return fmt.Errorf("%d did not come back, and %d were dropped", lost, dropped)
		}
		return nil
	})
	ofUDP := m.dropped(t)
	m.transfer(t, m.addresses["ledger"], 200<<10)
	end()
	all := m.dropped(t)
	if ofUDP < 30 || all < ofUDP+5+strangers {
		t.Fatalf("the underlay dropped %d datagrams and %d in all, which is hardly any of TCP's", ofUDP, all)
	}
	return all
}

// transfer sends bytes by TCP and demands them back.
func (m *lossyMesh) transfer(t *testing.T, address string, size int) {
	t.Helper()
	c, err := m.dialTCP(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(slack * 60 * time.Second * slowness())); err != nil {
		t.Fatal(err)
	}
	out, back := make([]byte, size), make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(out)
	written := make(chan error, 1)
	go func() { _, err := c.Write(out); written <- err }()
	_, err = io.ReadFull(c, back)
	if err := errors.Join(err, <-written); err != nil || !bytes.Equal(out, back) {
		t.Fatalf("what came back of %d bytes is the same: %t, %v", size, bytes.Equal(out, back), err)
	}
}

// sentWhileDead is how many datagrams are sent while a tunnel does not run.
const sentWhileDead = 40

// uncounted is how many packets a tunnel that is killed may have handed on and not counted (decision 0038).
const uncounted = 128

// killTunnels sends while there is no tunnel process at one end, and at the other.
func (m *lossyMesh) killTunnels(t *testing.T, k *talker) {
	t.Helper()
	for _, host := range []string{"host-a", "host-b"} {
		k.settle(t)
		if err := m.lab.Kill(host, "tunnel", false); err != nil {
			t.Fatal(err)
		}
		k.send(t, sentWhileDead)
		if err := m.lab.Start(t.Context(), host, "tunnel"); err != nil {
			t.Fatal(err)
		}
		k.awaitAnswer(t, "an answer after the tunnel of "+host+" was killed")
	}
}

// lookEvery is the time between two looks at the evidence.
const lookEvery = 3 * time.Second

// allTold waits until both nodes have sealed all of what was sent, and returns a copy of that and what verify tells of it. Meanwhile each node refuses
// packets: so it seals soon, and nothing passes between the two.
func (m *lossyMesh) allTold(t *testing.T) (e evidence, r verify.Report) {
	t.Helper()
	nobody := netip.MustParseAddrPort("10.0.1.200:9")
	cart, _ := socketIn(t, m.ns("cart"), 0)
	target, _ := socketIn(t, m.ns("ledger"), 0)
	keys := m.publicKeys(t, "keys", true)
	last := time.Now()
	eventually(t, 120*time.Second, "both nodes to tell all", func() error {
		for _, p := range []*net.UDPConn{cart, target} {
			if _, err := p.WriteToUDPAddrPort([]byte("anybody?"), nobody); err != nil {
				t.Fatal(err)
			}
		}
		if time.Since(last) < lookEvery {
			return errors.New("they do not yet")
		}
		last = time.Now()
		e = evidence{filepath.Join(t.TempDir(), "copy"), keys}
		if _, errs, status := m.output(t, "", "flows", "export", "--out", e.dir); status != 0 {
			t.Fatalf("export: %s", errs)
		}
		var status int
		if r, status = m.verify(t, e); status != 0 || !r.OK {
			t.Fatalf("verify ends with %d: %d findings, the first %v", status, len(r.Findings)+r.More, r.Findings)
		}
		for _, c := range r.Connections {
			if !c.Compared || !c.Measured || c.Slack > 0 {
				return fmt.Errorf("%+v", c)
			}
		}
		if len(r.Connections) != len(m.connections) {
			return fmt.Errorf("of %d connections", len(r.Connections))
		}
		return nil
	})
	return e, r
}

// connection is what verify tells of a service's.
func (m *lossyMesh) connection(t *testing.T, r verify.Report, service string) verify.Connection {
	t.Helper()
	for _, c := range r.Connections {
		if c.Connection == m.connections[service] {
			return c
		}
	}
	t.Fatalf("the connection %s of %s is not in the report: %+v", m.connections[service], service, r.Connections)
	return verify.Connection{}
}

// bundled: what is handed to an auditor about a service has all records of its connection, who approved it, and proves itself.
func (m *lossyMesh) bundled(t *testing.T, e evidence, c verify.Connection) {
	b := evidence{filepath.Join(t.TempDir(), "bundle"), e.keys}
	if out, errs, status := m.output(t, "", "evidence", "--service", "pay/ledger", "--from", "1h", "--to", "0s", "--copy", e.dir, "--keys", e.keys,
		"--out", b.dir); status != 0 {
		t.Fatalf("evidence: %s%s", out, errs)
	}
	records, err := os.ReadFile(filepath.Join(b.dir, bundle.RecordsName))
	if err != nil {
		t.Fatal(err)
	}
	sent, received := uint64(0), uint64(0)
	for line := range bytes.Lines(records) {
		var r api.FlowRecord
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		switch r.Side {
		case "consumer":
			sent, received = sent+r.Packets, received+r.ReplyPackets
		case "provider":
			sent, received = sent+r.ReplyPackets, received+r.Packets
		}
	}
	if sent != c.Sent || received != c.Received {
		t.Errorf("records of the bundle tell %d packets sent and %d received, verify %d and %d", sent, received, c.Sent, c.Received)
	}
	con, err := m.as("pay").ListConnections(t.Context(), "ledger")
	if err != nil || len(con) != 1 {
		t.Fatalf("%d connections, %v", len(con), err)
	}
	approvals, err := os.ReadFile(filepath.Join(b.dir, bundle.ApprovalsName))
	if err != nil || !bytes.Contains(approvals, []byte(c.Connection)) || !bytes.Contains(approvals, []byte(con[0].Approver)) {
		t.Errorf("approvals of the bundle, by %s: %s, %v", con[0].Approver, approvals, err)
	}
	if r, status := m.verify(t, b); status != 0 || !r.OK || r.Records == 0 {
		t.Errorf("verify of the bundle ends with %d: %v", status, r.Findings)
	}
	out, errs, status := m.output(t, "", "audit", "show", c.Connection, "--from", b.dir, "--keys", b.keys, "-o", "json")
	var shown api.AuditedState
	if err := json.Unmarshal([]byte(out), &shown); err != nil || status != 0 || shown.Resource.Decision == nil ||
		shown.Resource.Decision.Actor != con[0].Approver {
		t.Errorf("audit show from the bundle ends with %d: %v, %+v\n%s", status, err, shown.Resource, errs)
	}
}
