//go:build linux

package host

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/culvert-net/culvert/internal/netlab"
)

// What only a kernel can show. The contract test covers the rest.

// picture is all that an attachment could leave behind in a namespace, as text.
func picture(ns *netlab.Namespace) string {
	var b strings.Builder
	for _, c := range []string{
		"-d link show", "-d address show", "-4 route show table all", "-6 route show table all", "neighbour show", "rule show",
	} {
		fmt.Fprintf(&b, "== ip %s\n%s", c, ns.Exec("ip", strings.Fields(c)...))
	}
	return b.String()
}

// tree lists a directory with modes, link targets and contents.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %s", path, info.Mode())
		switch {
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			fmt.Fprintf(&b, " -> %s %v", target, err)
		case d.Type().IsRegular():
			text, err := os.ReadFile(path)
			fmt.Fprintf(&b, " %q %v", text, err)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return b.String()
}

func TestNetlinkLeavesNoTrace(t *testing.T) {
	for _, c := range []struct {
		name  string
		files func(dir string) error // prepares the namespace's directory
	}{
		{"nothing before", func(string) error { return nil }},
		{"directory above", func(dir string) error { return os.Mkdir(filepath.Dir(dir), 0o755) }},
		{"directory", func(dir string) error { return os.MkdirAll(dir, 0o700) }},
		{"file", func(dir string) error {
			return errorsOf(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, resolvConf), []byte("# mine\n"), 0o640))
		}},
		{"symlink", func(dir string) error {
			return errorsOf(os.MkdirAll(dir, 0o755), os.Symlink("../somewhere", filepath.Join(dir, resolvConf)))
		}},
		{"other file", func(dir string) error {
			return errorsOf(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "hosts"), []byte("::1 x\n"), 0o644))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newKernelWorld(t)
			s := spec(w.namespace("cart"))
			s.DefaultRoute = true
			ns := w.spaces[s.Netns]
			w.addInterface(s.Netns, "eth0", netip.MustParsePrefix("192.0.2.5/24"))
			ok(t, c.files(filepath.Dir(w.file(s.Netns))))
			before, beforeHost, beforeFiles := picture(ns), picture(w.ns), tree(t, w.etc)
			l := must(w.Attach(s))(t)
			ok(t, w.SetUp(l.Name, true))
			if picture(ns) == before || picture(w.ns) == beforeHost || tree(t, w.etc) == beforeFiles {
				t.Fatal("the pictures do not show an attachment")
			}
			ok(t, w.Detach(s.ENI))
			for _, x := range [][2]string{
				{before, picture(ns)}, {beforeHost, picture(w.ns)}, {beforeFiles, tree(t, w.etc)},
			} {
				if x[0] != x[1] {
					t.Errorf("before:\n%s\nafter:\n%s", x[0], x[1])
				}
			}
			doors := must(newDoor(must(os.Open(w.ns.Path()))(t)).state())(t)
			if len(doors) != 0 {
				t.Errorf("doors left: %v", doors)
			}
		})
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestNetlinkRefusedAttachChangesNothing(t *testing.T) {
	w := newKernelWorld(t)
	s := spec(w.namespace("cart"))
	w.addInterface(s.Netns, "eth0", netip.MustParsePrefix("10.0.200.5/24"))
	before, beforeHost := picture(w.spaces[s.Netns]), picture(w.ns)
	_, err := w.Attach(s)
	wantErr(t, err, ErrConflict)
	if after := picture(w.spaces[s.Netns]); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if after := picture(w.ns); after != beforeHost {
		t.Errorf("host before:\n%s\nafter:\n%s", beforeHost, after)
	}
	if files := tree(t, w.etc); files != "" {
		t.Errorf("files: %s", files)
	}
}

func TestNetlinkWorkloadRouting(t *testing.T) {
	w := newKernelWorld(t)
	s := spec(w.namespace("cart"))
	s.DefaultRoute = true
	must(w.Attach(s))(t)
	ns := w.spaces[s.Netns]
	for dst, want := range map[string]string{
		"10.0.1.1":        "10.0.1.1 dev eni0 src 10.0.1.5",
		"10.0.1.6":        "10.0.1.6 via 10.0.1.1 dev eni0 src 10.0.1.5",
		"10.0.77.7":       "10.0.77.7 via 10.0.1.1 dev eni0 src 10.0.1.5",
		"10.0.0.2":        "10.0.0.2 via 10.0.1.1 dev eni0 src 10.0.1.5",
		"169.254.169.253": "169.254.169.253 via 10.0.1.1 dev eni0 src 10.0.1.5",
		"203.0.113.9":     "203.0.113.9 via 10.0.1.1 dev eni0 src 10.0.1.5",
	} {
		if got := ns.Exec("ip", "route", "get", dst); !strings.HasPrefix(got, want) {
			t.Errorf("route to %s: %q, want %q", dst, got, want)
		}
	}
	s.DefaultRoute = false
	must(w.Attach(s))(t)
	if out, err := ns.Try("ip", "route", "get", "203.0.113.9"); err == nil {
		t.Errorf("a way out of the VPC remains: %s", out)
	}
}

func TestNetlinkAttachRepairs(t *testing.T) {
	w := newKernelWorld(t)
	s := spec(w.namespace("cart"))
	l := must(w.Attach(s))(t)
	ns := w.spaces[s.Netns]
	whole := ns.Exec("ip", "-4", "route", "show", "table", "all")
	for _, damage := range []string{
		"address del 10.0.1.5/32 dev eni0", // takes routes with it
		"route del 10.0.0.0/16", "route del 10.0.1.1", "link set eni0 down", "link set eni0 mtu 9000",
		"link set eni0 address 02:11:22:33:44:55", "address add 10.0.1.6/32 dev eni0",
		"route replace 10.0.0.0/16 dev eni0 scope link",
	} {
		ns.Exec("ip", strings.Fields(damage)...)
		if got := must(w.Attach(s))(t); got != l {
			t.Errorf("after ip %s:\n%+v, before\n%+v", damage, got, l)
		}
		if got := ns.Exec("ip", "-4", "route", "show", "table", "all"); got != whole {
			t.Errorf("after ip %s:\n%s, before\n%s", damage, got, whole)
		}
		if got := ns.Exec("ip", "link", "show", "eni0"); !strings.Contains(got, "mtu 1392") {
			t.Errorf("after ip %s: %s", damage, got)
		}
	}
	// What is not ours stays, also on our interface.
	ns.Exec("ip", "route", "add", "192.0.2.0/24", "via", "10.0.1.1", "dev", "eni0", "onlink")
	must(w.Attach(s))(t)
	if got := ns.Exec("ip", "route", "show", "192.0.2.0/24"); got == "" {
		t.Error("a route that a person added is gone")
	}
}

func TestNetlinkRecoversFromHalfMadeLink(t *testing.T) {
	w := newKernelWorld(t)
	s := spec(w.namespace("cart"))
	name := VethName(s.ENI)
	// As an agent leaves it that dies right after the kernel made the pair: no alias, no door.
	w.ns.Exec("ip", "link", "add", name, "group", strconv.Itoa(linkGroup), "type", "veth", "peer", "name", "eni0",
		"netns", w.spaces[s.Netns].Name)
	l := must(w.Attach(s))(t)
	if !l.Closed || l.Up || !l.PeerPresent || l.MAC != s.MAC || l.GatewayMAC != GatewayMAC || l.MTU != s.MTU {
		t.Fatalf("attached: %+v", l)
	}
	ok(t, w.Detach(s.ENI))
	w.ns.Exec("ip", "link", "add", name, "group", strconv.Itoa(linkGroup), "type", "veth", "peer", "name", "eni0",
		"netns", w.spaces[s.Netns].Name)
	ok(t, w.Cleanup())
	if x := must(w.Link(name))(t); x.Ifindex != 0 {
		t.Fatalf("a half-made link survives Cleanup: %+v", x)
	}
	w.ns.Exec("ip", "link", "add", name, "type", "veth", "peer", "name", "v1")
	_, err := w.Attach(s)
	wantErr(t, err, ErrForeign)
	wantErr(t, w.Detach(s.ENI), ErrForeign)
	ok(t, w.Cleanup())
	if x := must(w.Link(name))(t); x.Ifindex == 0 {
		t.Fatal("Cleanup removed a link that is not ours")
	}
}

func TestNetlinkNoticesAHand(t *testing.T) {
	w := newKernelWorld(t)
	s := spec(w.namespace("cart"))
	other := w.spaces[w.namespace("other")]
	ns := w.spaces[s.Netns]
	name := VethName(s.ENI)
	for name, damage := range map[string][]string{
		"renamed": {"-n", ns.Name, "link", "set", "eni0", "name", "eni9"},
		"moved":   {"-n", ns.Name, "link", "set", "eni0", "netns", other.Name},
		"to host": {"-n", ns.Name, "link", "set", "eni0", "netns", w.ns.Name},
		// The other end, which is the host's.
		"deleted on the host": {"-n", w.ns.Name, "link", "delete", name},
		"renamed on the host": {"-n", w.ns.Name, "link", "set", name, "name", "eth7"},
		"moved off the host":  {"-n", w.ns.Name, "link", "set", name, "netns", other.Name},
	} {
		first := must(w.Attach(s))(t)
		ns.Exec("ip", "link", "set", "eni0", "down")
		w.ns.Exec("ip", "link", "set", first.Name, "down")
		w.ns.Exec("ip", damage...)
		all := must(w.Workloads())(t)
		if len(all) > 1 || len(all) == 1 && all[0].PeerPresent && all[0].Name == first.Name {
			t.Errorf("%s: workloads %+v", name, all)
		}
		now := must(w.Attach(s))(t)
		if !now.PeerPresent || now.Ifindex == first.Ifindex || now.Name != first.Name {
			t.Errorf("%s: attached anew: %+v", name, now)
		}
	}
	w.ns.Exec("ip", "link", "set", name, "name", "eth7")
	ok(t, w.Detach(s.ENI))
	if out := w.ns.Exec("ip", "-o", "link"); strings.Contains(out, "eth7") {
		t.Errorf("detach leaves a link that was renamed: %s", out)
	}
	if out := other.Exec("ip", "-o", "link"); strings.Contains(out, "eni0") {
		t.Errorf("the old interface is still in the other namespace: %s", out)
	}
}

func TestNetlinkNamespaceOfAProcess(t *testing.T) {
	w := newKernelWorld(t)
	ns := w.spaces[w.namespace("cart")]
	p := ns.Start("sleep", "600")
	s := spec(fmt.Sprintf("/proc/%d/ns/net", p.Pid()))
	l := must(w.Attach(s))(t)
	var st struct{ inode uint64 }
	ok(t, ns.Do(func() error {
		target, err := os.Readlink("/proc/thread-self/ns/net")
		if err == nil {
			_, err = fmt.Sscanf(target, "net:[%d]", &st.inode)
		}
		return err
	}))
	if !l.PeerPresent || l.NetnsInode != st.inode {
		t.Fatalf("attached: %+v, the process is in %d", l, st.inode)
	}
	if files := tree(t, w.etc); files != "" {
		t.Fatalf("a namespace without a name has files: %s", files)
	}
	p.Stop()
	if all := must(w.Workloads())(t); len(all) != 1 || all[0].PeerPresent {
		t.Fatalf("workloads after the process ended: %+v", all)
	}
	ok(t, w.Detach(s.ENI))
}

func TestNetlinkRefusesWhatIsNoWorkloadsNamespace(t *testing.T) {
	w := newKernelWorld(t)
	_, err := w.Attach(spec(w.ns.Path()))
	wantErr(t, err, ErrSpec)
	if !strings.Contains(err.Error(), "host's own") {
		t.Errorf("%v", err)
	}
	for _, path := range []string{"/etc/hostname", "/proc/self/ns/mnt", "/proc/4194305/ns/net", "/etc/hostname/x"} {
		_, err := w.Attach(spec(path))
		wantErr(t, err, ErrNoNamespace)
	}
}

func TestNetlinkFacts(t *testing.T) {
	w := newKernelWorld(t)
	for _, v := range []string{"0", "1"} {
		w.ns.Exec("sysctl", "-qw", "net.ipv4.ip_forward="+v, "net.ipv4.conf.all.rp_filter="+v,
			"net.ipv6.conf.all.forwarding="+v)
		f := must(w.Facts())(t)
		if n, _ := strconv.Atoi(v); f.IPv4Forward != n || f.RPFilterAll != n || f.IPv6Forward != n || f.IPv6Disabled != 0 {
			t.Errorf("facts %+v, want %s", f, v)
		}
	}
}

func TestNetlinkManyAtOnce(t *testing.T) {
	w := newKernelWorld(t)
	const workers, each = 4, 5
	paths := make([]string, workers*each)
	for i := range paths {
		paths[i] = w.namespace("w" + strconv.Itoa(i))
	}
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for k := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := k * each; i < (k+1)*each; i++ {
				s := spec(paths[i])
				s.ENI = fmt.Sprintf("eni-%02d", i)
				if _, err := w.Attach(s); err != nil {
					errs <- err
					return
				}
				if _, err := w.Workloads(); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	all := must(w.Workloads())(t)
	if len(all) != workers*each || !slices.IsSortedFunc(all, func(a, b WorkloadLink) int { return strings.Compare(a.ENI, b.ENI) }) {
		t.Fatalf("%d workloads: %+v", len(all), all)
	}
	for _, l := range all {
		if !l.PeerPresent || !l.Closed || l.Up {
			t.Errorf("%+v", l)
		}
	}
}

// received is how many packets an interface has got.
func received(ns *netlab.Namespace, ifname string) int {
	var out []struct {
		Stats struct {
			RX struct{ Packets int } `json:"rx"`
		} `json:"stats64"`
	}
	text := ns.Exec("ip", "-j", "-s", "link", "show", "dev", ifname)
	if err := json.Unmarshal([]byte(text), &out); err != nil || len(out) != 1 {
		return -1
	}
	return out[0].Stats.RX.Packets
}

func send(ns *netlab.Namespace, to string) error {
	return ns.Do(func() error {
		c, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("hello"))
		return err
	})
}

func TestNetlinkFailedAttachIsUndone(t *testing.T) {
	w := newKernelWorld(t)
	s := spec(w.namespace("cart"))
	ok(t, os.WriteFile(w.etc, nil, 0o600)) // where the directory of resolver files should be
	before, beforeHost := picture(w.spaces[s.Netns]), picture(w.ns)
	if _, err := w.Attach(s); err == nil || !strings.Contains(err.Error(), "resolver file") {
		t.Fatalf("attach: %v", err)
	}
	if after := picture(w.spaces[s.Netns]); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if after := picture(w.ns); after != beforeHost {
		t.Errorf("host before:\n%s\nafter:\n%s", beforeHost, after)
	}
	ok(t, os.Remove(w.etc))
	must(w.Attach(s))(t)
}

// The edge can be closed and used again: the agent does so when its host changes under it.
func TestNetlinkReopens(t *testing.T) {
	w := newKernelWorld(t)
	s := spec(w.namespace("cart"))
	l := must(w.Attach(s))(t)
	w.Close()
	other := New(Config{Netns: w.ns.Path(), EtcNetns: w.etc}) // as an agent after a restart
	defer other.Close()
	for _, h := range []Host{w, other} {
		if all := must(h.Workloads())(t); !slices.Equal(all, []WorkloadLink{l}) {
			t.Errorf("workloads %+v, want %+v", all, l)
		}
	}
}

func BenchmarkNetlinkAttachAgain(b *testing.B) {
	lab := netlab.New(b)
	h := New(Config{Netns: lab.Namespace("host").Path(), EtcNetns: filepath.Join(b.TempDir(), "netns")})
	defer h.Close()
	s := spec(lab.Namespace("cart").Path())
	for b.Loop() {
		must(h.Attach(s))(b)
	}
}

func BenchmarkNetlinkWorkloads100(b *testing.B) {
	lab := netlab.New(b)
	h := New(Config{Netns: lab.Namespace("host").Path(), EtcNetns: filepath.Join(b.TempDir(), "netns")})
	defer h.Close()
	for i := range 100 {
		s := spec(lab.Namespace(strconv.Itoa(i)).Path())
		s.ENI = fmt.Sprintf("eni-%02d", i)
		must(h.Attach(s))(b)
	}
	for b.Loop() {
		must(h.Workloads())(b)
	}
}
