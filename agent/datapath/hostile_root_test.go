package datapath

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// A hostile node is one whose programs do not bind it: it writes into its tunnel what it likes, from addresses that it has,
// which WireGuard demands of it (e2e's TestHostileHostIsRefusedByTheReceiver has that part). Here host b receives, with its
// own programs, maps, interfaces and sockets, and the test stands in for the hostile host a, at b's end of the tunnel.

const (
	elsewhere = 3 // VPC of another consumer on the hostile host, with the addresses of shop's
	tagTCP    = 7 // of the connection that shop has to pay's ledger
	tagUDP    = 8
	nobody    = 1001 // rule set that admits an address which nobody has
	stolen    = "written by a hostile node"
)

// hostile is the receiver of what a hostile node writes.
type hostile struct {
	*testing.T
	m     *mesh
	port  uint16 // of the row's flows
	heard []int  // packet sockets at the workloads
}

// newHostile is a mesh whose clock of rates stands still: what a cap lets through does not depend on how busy the machine is.
func newHostile(t *testing.T) *hostile {
	t.Helper()
	h := &hostile{T: t, m: newMesh(t, func(c *Config) { c.stands = true }), port: 20_000}
	for _, w := range []*workload{h.m.ledger, h.m.shelf} {
		h.heard = append(h.heard, w.overhear(t))
	}
	h.m.ledger.listenUDP(t, ":8443") // else its host answers with an error, and has sent something
	return h
}

// overhear gets a copy of all that comes in at a workload's interface.
func (w *workload) overhear(t *testing.T) (fd int) {
	t.Helper()
	err := w.Do(func() (err error) {
		ifi, err := net.InterfaceByName("eni0")
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// stolen is how many packets that were to be refused a workload has heard.
func (h *hostile) stolen() (n int) {
	buf := make([]byte, 70_000)
	for _, fd := range h.heard {
		for {
			size, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				break
			}
			if bytes.Contains(buf[:size], []byte(stolen)) {
				n++
			}
		}
	}
	return n
}

// told gives the receiver a plan, changed.
func (h *hostile) told(changes ...func(*plan.Plan)) {
	h.Helper()
	h.m.generation++
	p := h.m.plan(h.m.b)
	p.RuleSets = append(p.RuleSets, plan.RuleSet{ID: nobody, Text: "sgr-nobody 256 0-65535 192.0.2.1/32\n"})
	for _, change := range changes {
		if change != nil {
			change(p)
		}
	}
	h.m.applyPlan(h.m.b, p)
}

// write puts a packet into the receiver's end of the tunnel. It has gone through the program when this returns.
func (h *hostile) write(packet []byte) {
	h.Helper()
	const virtioHeader = 10
	if _, err := h.m.b.tun.Write(append(make([]byte, virtioHeader), packet...)); err != nil {
		h.Fatalf("write % x: %v", packet[:min(len(packet), 60)], err)
	}
}

func (h *hostile) count(r bpf.Reason) uint64 { return h.m.b.counter(h.T, bpf.HookTunnel, r) }

// pass writes a packet that must be let through: it opens what the row is about.
func (h *hostile) pass(packet []byte) {
	h.Helper()
	before := h.count(bpf.ReasonForwarded)
	h.write(packet)
	if h.count(bpf.ReasonForwarded) != before+1 {
		h.Fatal("what the row begins with is refused")
	}
}

// at is the overlay address of a workload in IPv4; number is of a connection, 0 for none.
func (h *hostile) at(w *workload, number uint16) api.Overlay {
	return plantest.InMesh(testMesh, w.vpc, w.address, number)
}

// foreign is the cart's address in another consumer's VPC.
func (h *hostile) foreign(number uint16) api.Overlay {
	return plantest.InMesh(testMesh, elsewhere, h.m.cart.address, number)
}

// syn is the connection's first packet, in full order but for what is changed.
func (h *hostile) syn(change ...func(*plantest.IP)) []byte {
	return h.ip(plan.ProtocolTCP, h.at(h.m.cart, tagTCP), h.at(h.m.ledger, 0), 8443, change...)
}

func (h *hostile) datagram(change ...func(*plantest.IP)) []byte {
	return h.ip(plan.ProtocolUDP, h.at(h.m.cart, tagUDP), h.at(h.m.ledger, 0), 8443, change...)
}

func (h *hostile) ip(protocol uint8, from, to api.Overlay, port uint16, change ...func(*plantest.IP)) []byte {
	p := plantest.IP{
		Protocol: protocol, SourcePort: h.port, DestPort: port, Flags: plantest.SYN, ICMPType: 8, ICMPID: h.port, Seq: 1000,
		Payload: []byte(stolen),
	}
	for _, f := range change {
		f(&p)
	}
	return p.Overlay(from, to)
}

func allowed(p *plantest.IP) { p.Payload = []byte("let through") }
func ack(p *plantest.IP)     { p.Flags = plantest.ACK }

// bent changes bytes of a packet.
func bent(b []byte, f func([]byte)) []byte {
	f(b)
	return b
}

// Every check of the receiver refuses a node that is not bound to its own programs: each row is counted under its reason, as
// many packets as were written, and no workload hears one of them.
func TestHostileNode(t *testing.T) {
	h := newHostile(t)
	for _, row := range hostileRows {
		t.Run(row.reason.String()+" "+row.what, func(t *testing.T) {
			h.T, h.m.t = t, t
			h.port += 10
			h.told(row.told)
			if row.first != nil {
				row.first(h)
			}
			if row.then != nil {
				row.then(h)
			}
			packet := row.packet(h)
			all, refused, forwarded := h.count(bpf.ReasonNone), h.count(row.reason), h.count(bpf.ReasonForwarded)
			const packets = 3
			for range packets {
				h.write(packet)
			}
			all, refused = h.count(bpf.ReasonNone)-all, h.count(row.reason)-refused
			if all != packets || refused != packets || h.count(bpf.ReasonForwarded) != forwarded {
				t.Errorf("%d of %d packets came and %d were refused: %v", all, packets, refused, h.reasons())
			}
			if n := h.stolen(); n != 0 {
				t.Errorf("workloads heard %d packets", n)
			}
		})
	}
	h.T, h.m.t = t, t
	h.told()
	h.port += 10
	h.pass(h.syn())
	if n := h.stolen(); n != 1 {
		t.Errorf("of a packet that is let through %d were heard: this test hears nothing", n)
	}
}

// reasons is what the receiver counted at its tunnel so far.
func (h *hostile) reasons() map[string]uint64 {
	out := map[string]uint64{}
	for r := range bpf.Reason(bpf.ABIReasonREASON_MAX) {
		if n := h.count(r); n > 0 {
			out[r.String()] = n
		}
	}
	return out
}

// elsewhereOnly are reasons that stand in functions which the receive half shares, where none of its packets comes by.
var elsewhereOnly = map[string]string{
	"NONE": "no end", "FORWARDED": "no refusal", "INTERNAL": "no packet makes a helper of the kernel fail",
	"ANSWERED": "finish, which records no refusal of that", "NODES_OWN": "likewise", "NOT_IP": "finish, likewise",
	"GROUP_EGRESS": "decide_send", "ENDPOINT_GROUP": "decide_send", "NO_DESTINATION": "decide_send",
	"NO_LISTENER": "decide_send", "NO_TARGET": "decide_send", "TOO_BIG": "misfit, toward the tunnel",
}

// Whatever reason stands in a function that from_tunnel may call has a row, or is none of its own.
func TestHostileNodeTriesEveryReason(t *testing.T) {
	tried := map[string]bool{}
	for _, row := range hostileRows {
		tried[row.reason.String()] = true
	}
	reachable := reasonsFrom(t, "from_tunnel")
	if len(reachable) < 25 {
		t.Fatalf("only %v found in the programs' source", reachable)
	}
	for _, r := range reachable {
		if !tried[r] && elsewhereOnly[r] == "" {
			t.Errorf("from_tunnel may refuse with %s, and no hostile node tries it", r)
		}
		if tried[r] && elsewhereOnly[r] != "" {
			t.Errorf("%s is tried, and said to be impossible", r)
		}
	}
	for r := range elsewhereOnly {
		if !slices.Contains(reachable, r) {
			t.Errorf("%s is said to be none of the receiver's, and stands nowhere", r)
		}
	}
}

// reasonsFrom are those in the C function named and in all that it calls, macros aside.
func reasonsFrom(t *testing.T, root string) []string {
	t.Helper()
	bodies := map[string]string{}
	head := regexp.MustCompile(`(?ms)^(?:static |SEC\("tc"\)\n)?[^\n;{}]*?\b(?:APART\((\w+),|(\w+)\()[^;{}]*\)\n\{\n(.*?)^\}`)
	for _, pattern := range []string{"../../bpf/*.c", "../../bpf/lib/*.h"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			src, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range head.FindAllStringSubmatch(string(src), -1) {
				bodies[m[1]+m[2]] += m[3]
			}
		}
	}
	called := regexp.MustCompile(`\b(\w+)\(|bpf_loop\([^,]+, (\w+)|\bREASON_(\w+)`)
	seen, found := map[string]bool{}, map[string]bool{}
	var walk func(string)
	walk = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		for _, w := range called.FindAllStringSubmatch(bodies[name], -1) {
			if w[3] != "" {
				found[w[3]] = true
				continue
			}
			walk(w[1])
			walk(w[2])
		}
	}
	walk(root)
	return slices.Sorted(maps.Keys(found))
}

// limit bounds a quota of the plan.
func limit(kind plan.QuotaKind, id uint32, change func(*plan.Quota)) func(*plan.Plan) {
	return func(p *plan.Plan) {
		for i := range p.Quotas {
			if p.Quotas[i].Kind == kind && p.Quotas[i].ID == id {
				change(&p.Quotas[i])
				return
			}
		}
		panic(fmt.Sprintf("no quota %d of %d", kind, id))
	}
}

// granting changes the connection's grants.
func granting(change func(*plan.Grant)) func(*plan.Plan) {
	return func(p *plan.Plan) {
		for i := range p.Grants {
			change(&p.Grants[i])
		}
	}
}

// ofWorkload changes a workload's row.
func ofWorkload(id string, change func(*plan.ENI)) func(*plan.Plan) {
	return func(p *plan.Plan) {
		i := slices.IndexFunc(p.ENIs, func(e plan.ENI) bool { return e.ID == id })
		change(&p.ENIs[i])
	}
}

// put writes a row of the receiver's that no plan would.
func (h *hostile) put(table string, key, value any) {
	h.Helper()
	if err := h.m.b.dp.coll.Maps[table].Put(key, value); err != nil {
		h.Fatal(err)
	}
}
