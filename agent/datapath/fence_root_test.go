package datapath

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/culvert-net/culvert/internal/netlab"
)

// detachAll takes our tcx links off an interface, as `bpftool link detach` does.
func (h *meshHost) detachAll(t *testing.T, ifindex int) {
	t.Helper()
	for k, a := range h.dp.links {
		if x, ok := a.(*tcx); ok && k.ifindex == ifindex {
			if err := x.link.Detach(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// received is how many packets came in at an interface, dropped ones included.
func received(t *testing.T, ns *netlab.Namespace, ifname string) string {
	t.Helper()
	for _, line := range strings.Split(ns.Exec("cat", "/proc/thread-self/net/dev"), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[0] == ifname+":" {
			return f[2]
		}
	}
	t.Fatalf("no interface %s", ifname)
	return ""
}

// arpAnswers tells whether somebody answers the workload's ARP for an address.
func arpAnswers(t *testing.T, w *workload, address string) bool {
	t.Helper()
	w.Exec("ip", "neigh", "flush", "to", address)
	if err := w.Do(func() error {
		c, err := net.Dial("udp4", address+":9")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("who"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(300 * time.Millisecond)
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		if strings.Contains(w.Exec("ip", "neigh", "show", address), "lladdr") {
			return true
		}
		if time.Now().After(until) {
			return false
		}
	}
}

// With the program gone, and no door in this test, the fence keeps a workload's packets from the host's stack, and the
// host's from a workload. Then the fence goes: the host's stack answers, so that the test can fail. Secure puts back both
// and says so.
func TestFence(t *testing.T) {
	m := newMesh(t)
	h, w := m.a, m.cart
	h.AddAddress("cvcart", netip.MustParsePrefix("10.0.1.1/24")) // somebody who would answer
	h.detachAll(t, w.ifindex)
	if arpAnswers(t, w, "10.0.1.1") {
		t.Fatal("without the program, the host's stack got a workload's packet")
	}
	before := received(t, w.Namespace, "eni0")
	if _, err := h.Try("ping", "-c2", "-i0.2", "-W1", w.address.String()); err == nil {
		t.Fatal("without the program, the host reaches a workload")
	}
	if after := received(t, w.Namespace, "eni0"); after != before {
		t.Errorf("the workload received %s packets, before %s", after, before)
	}
	h.Exec("tc", "qdisc", "del", "dev", "cvcart", "clsact")
	if !arpAnswers(t, w, "10.0.1.1") {
		t.Fatal("no answer without program and fence: the test cannot fail")
	}
	h.Exec("tc", "qdisc", "add", "dev", "cvcart", "ingress") // in the fence's place
	m.secure(h, w.ifindex, AtWorkload)
	if arpAnswers(t, w, "10.0.1.7") == false {
		t.Error("the program is back, and does not answer for the gateway's subnet")
	}
	said := strings.Join(h.dp.Repairs(), "\n")
	for _, want := range []string{"from_workload was detached", fenceAnswers + " was detached", "fence (tc filter " + fenceAll} {
		if !strings.Contains(said, want) {
			t.Errorf("repairs %q do not say %q", said, want)
		}
	}
	if again := h.dp.Repairs(); len(again) != 0 {
		t.Errorf("told twice: %q", again)
	}
	m.secure(h, w.ifindex, AtWorkload)
	if again := h.dp.Repairs(); len(again) != 0 {
		t.Errorf("nothing was changed, and repaired: %q", again)
	}
	h.detachAll(t, w.ifindex)
	if arpAnswers(t, w, "10.0.1.1") {
		t.Error("the fence that was put back does not hold")
	}
}

// The fence stays when nothing of ours is left but the interface: no agent, and pins removed.
func TestFenceOutlivesAgentAndPins(t *testing.T) {
	m := newMesh(t)
	h, w := m.a, m.cart
	h.AddAddress("cvcart", netip.MustParsePrefix("10.0.1.1/24"))
	if err := h.Do(h.dp.Close); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(h.dp.dir); err != nil {
		t.Fatal(err)
	}
	netlab.Eventually(t, patience, func() bool { // the kernel detaches what nobody holds in its own time
		var left *link.QueryResult
		if err := h.Do(func() (err error) {
			left, err = link.QueryPrograms(link.QueryOptions{Target: w.ifindex, Attach: ebpf.AttachTCXIngress})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return len(left.Programs) == 0
	}, "programs are still attached")
	if arpAnswers(t, w, "10.0.1.1") {
		t.Error("with agent and pins gone, the host's stack got a workload's packet")
	}
	var err error
	if err := h.Do(func() error { h.dp, err = Open(h.cfg); return err }); err != nil { // for the test's end
		t.Fatal(err)
	}
}
