package agree

import (
	"encoding/binary"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/datapath"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/controlplane/view"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/judge"
	"github.com/culvert-net/culvert/plan"
)

// The fences' account has a workload on each node, all of which hear each other. A packet between them follows those that
// were sent before it by any workload of the same node: one CPU sends, devices keep the order, and so does what carries
// packets between the tunnels.
const (
	fenceVPC    = "vpc-fence"
	fencePort   = 9
	fenceWithin = 20 * time.Second
	truthMark   = 0x43000000 // of cells, in TCP's sequence number or before the number in other payloads
)

func addFences(r *api.Resources) map[string]*api.ENI {
	account := &api.Account{Meta: api.Meta{ID: "999999999999", Name: "fence"}}
	r.Put(account)
	r.Put(&api.VPC{Meta: api.Meta{ID: fenceVPC, Account: account.ID}, CIDR: netip.MustParsePrefix("10.9.0.0/24"), Number: 999})
	r.Put(&api.Subnet{Meta: api.Meta{ID: "subnet-fence", Account: account.ID}, VPC: fenceVPC, Zone: "a",
		CIDR: netip.MustParsePrefix("10.9.0.0/24")})
	g := &api.SecurityGroup{Meta: api.Meta{ID: "sg-fence", Account: account.ID}, VPC: fenceVPC, Number: 999}
	g.Ingress, g.Egress = allowAll("in", g), allowAll("out", g)
	r.Put(g)
	out := map[string]*api.ENI{}
	for i, node := range slices.Sorted(maps.Keys(r.Nodes)) {
		e := &api.ENI{
			Meta: api.Meta{ID: "eni-fence" + strconv.Itoa(i), Account: account.ID}, Type: api.ENIWorkload, VPC: fenceVPC,
			Subnet: "subnet-fence", Address: netip.AddrFrom4([4]byte{10, 9, 0, byte(10 + i)}), SecurityGroups: []string{g.ID},
			Node: node, Number: uint32(9000 + i),
		}
		r.Put(e)
		out[node] = e
	}
	return out
}

// truthNet is a world on interfaces: a namespace for each node, with its programs, and one for each workload. The tunnels
// are TUN devices, between which the test carries packets where WireGuard would.
type truthNet struct {
	t      *testing.T
	lab    *netlab.Lab
	nodes  map[string]*truthNode
	links  map[string]*truthLink // by ENI
	fences map[string]*api.ENI   // by node
	heard  map[string]int        // socket at the fence of a node, beside the one that hears cells
	round  uint32

	mu      sync.Mutex
	owners  map[string]*node // with the plan in force
	byKey   map[string]*truthNode
	dropped uint64 // by the tunnel: nobody has the destination
	forged  int    // from a source that is not the sender's
	before  map[string]uint64
}

type truthNode struct {
	*netlab.Namespace
	id           string
	dp           *datapath.Datapath
	tun          *os.File
	tunnel, host int // ifindexes
	tap          int // what reaches the resolver
	generation   uint32
}

// truthLink is the workload's end of its interface.
type truthLink struct {
	eni     *api.ENI
	ifindex int // of the node's end
	tap     int
	index   int // of its own end
}

func newTruthNet(t *testing.T, r *api.Resources, fences map[string]*api.ENI) *truthNet {
	t.Helper()
	n := &truthNet{t: t, lab: netlab.New(t), nodes: map[string]*truthNode{}, links: map[string]*truthLink{}, fences: fences,
		byKey: map[string]*truthNode{}, before: map[string]uint64{}, heard: map[string]int{}}
	for _, id := range slices.Sorted(maps.Keys(r.Nodes)) {
		n.nodes[id] = n.node(id)
		n.byKey[r.Nodes[id].PublicKey] = n.nodes[id]
	}
	for _, id := range slices.Sorted(maps.Keys(r.ENIs)) {
		if e := r.ENIs[id]; e.Type == api.ENIWorkload && n.nodes[e.Node] != nil {
			n.links[id] = n.link(e)
		}
	}
	var carriers sync.WaitGroup
	for _, x := range n.nodes {
		carriers.Go(func() { n.carry(x) })
	}
	t.Cleanup(func() {
		for _, x := range n.nodes {
			x.tun.Close()
		}
		carriers.Wait()
	})
	// One CPU sends everything; the thread ends with the test.
	runtime.LockOSThread()
	var first, allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; first.Count() == 0; cpu++ {
		if allowed.IsSet(cpu) {
			first.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &first); err != nil {
		t.Fatal(err)
	}
	return n
}

// silent makes a namespace whose kernel sends nothing by itself: no address, no IPv6.
func (n *truthNet) silent(name string) *netlab.Namespace {
	ns := n.lab.Namespace(name)
	ns.Exec("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	return ns
}

func (n *truthNet) node(id string) *truthNode {
	n.t.Helper()
	x := &truthNode{Namespace: n.silent("n" + strconv.Itoa(len(n.nodes))), id: id}
	var err error
	if x.dp, err = datapath.Open(datapath.Config{}); err != nil {
		n.t.Fatalf("open: %+v", err)
	}
	n.t.Cleanup(func() {
		if err := x.Do(x.dp.Close); err != nil {
			n.t.Errorf("close: %v", err)
		}
	})
	if err := x.Do(func() (err error) { x.tun, err = netlab.OpenTUN("culvert0", unix.IFF_TUN); return err }); err != nil {
		n.t.Fatalf("tun: %v", err)
	}
	x.Exec("ip", "link", "add", "culvert-host", "type", "veth", "peer", "name", "culvert-dp")
	x.tunnel, x.host = n.ifindex(x.Namespace, "culvert0"), n.ifindex(x.Namespace, "culvert-dp")
	n.secure(x, x.tunnel, datapath.AtTunnel)
	n.secure(x, x.host, datapath.AtHost)
	x.Exec("tc", "qdisc", "replace", "dev", "culvert0", "root", "noqueue")
	x.Exec("ip", "link", "set", "culvert0", "txqueuelen", "4000", "mtu", "1420", "up")
	x.Exec("ip", "link", "set", "culvert-host", "up")
	x.Exec("ip", "link", "set", "culvert-dp", "up")
	x.tap, _ = n.packetSocket(x.Namespace, "culvert-host")
	return x
}

func (n *truthNet) link(e *api.ENI) *truthLink {
	n.t.Helper()
	x, name := n.nodes[e.Node], "e"+strconv.Itoa(int(e.Number))
	ns := n.silent(name)
	n.lab.Veth(x.Namespace, "cv"+name, ns, "eni0")
	l := &truthLink{eni: e, ifindex: n.ifindex(x.Namespace, "cv"+name)}
	n.secure(x, l.ifindex, datapath.AtWorkload)
	l.tap, l.index = n.packetSocket(ns, "eni0")
	if e.VPC == fenceVPC {
		n.heard[e.Node], _ = n.packetSocket(ns, "eni0")
	}
	return l
}

func (n *truthNet) secure(x *truthNode, ifindex int, place datapath.Place) {
	n.t.Helper()
	if err := x.Do(func() error { return x.dp.Secure(ifindex, place) }); err != nil {
		n.t.Fatal(err)
	}
}

func (n *truthNet) ifindex(ns *netlab.Namespace, name string) (index int) {
	n.t.Helper()
	if err := ns.Do(func() error {
		ifi, err := net.InterfaceByName(name)
		if err == nil {
			index = ifi.Index
		}
		return err
	}); err != nil {
		n.t.Fatalf("interface %s: %v", name, err)
	}
	return index
}

// packetSocket hears what comes in at an interface, and sends there.
func (n *truthNet) packetSocket(ns *netlab.Namespace, name string) (fd, index int) {
	n.t.Helper()
	index = n.ifindex(ns, name)
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8
	err := ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
	})
	if err != nil {
		n.t.Fatalf("listen at %s: %v", name, err)
	}
	n.t.Cleanup(func() { unix.Close(fd) })
	return fd, index
}

// carry takes packets out of a node's tunnel and puts them into that of the node which owns their destination.
func (n *truthNet) carry(x *truthNode) {
	buf := make([]byte, 2048)
	for {
		size, err := x.tun.Read(buf)
		if err != nil {
			return
		}
		if size < 40 {
			continue
		}
		if to := n.route(x, address(buf[8:]), address(buf[24:])); to != nil {
			if _, err := to.tun.Write(buf[:size]); err != nil {
				return
			}
		}
	}
}

func (n *truthNet) route(x *truthNode, source, dest netip.Addr) *truthNode {
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.byKey[n.owners[x.id].owner(dest)]
	if to == nil {
		n.dropped++
		return nil
	}
	if n.owners[to.id].owner(source) != n.owners[x.id].key {
		n.forged++
		return nil
	}
	return to
}

// apply computes every node's plan, as in newMesh, for the interfaces that there are.
func (n *truthNet) apply(r *api.Resources) {
	n.t.Helper()
	n.mu.Lock()
	n.owners = map[string]*node{}
	n.mu.Unlock()
	for id, x := range n.nodes {
		v := view.Compute(r, id)
		f := plantest.Facts(*v)
		x.generation++
		f.Generation = x.generation
		f.Config.TunnelIfindex, f.Config.HostIfindex = uint32(x.tunnel), uint32(x.host)
		for i := range f.Ready {
			f.Ready[i].Ifindex = uint32(n.links[f.Ready[i].ENI].ifindex)
		}
		p, err := plan.Compile(*v, f)
		if err != nil {
			n.t.Fatalf("node %s: %v", id, err)
		}
		if err := x.Do(func() error { _, err := x.dp.Apply(n.t.Context(), p); return err }); err != nil {
			n.t.Fatalf("node %s: %v", id, err)
		}
		n.mu.Lock()
		n.owners[id] = &node{id: id, key: r.Nodes[id].PublicKey, plan: p}
		n.mu.Unlock()
	}
	n.refused() // what was counted so far
}

// ask sends a batch, all of one source and reason, waits for the fences behind it, and looks where everything is.
func (n *truthNet) ask(state string, r *api.Resources, batch []truthCell) {
	n.t.Helper()
	src := n.links[batch[0].src.ID]
	for _, c := range batch {
		n.send(src, c.frame(r))
	}
	n.fence(batch[0].src.Node)
	got, refused := n.collect(), n.refused()
	for _, c := range batch {
		arrived := got[c.number]
		delete(got, c.number)
		if c.alone {
			n.one(state, r, c, arrived, refused)
			return
		}
		if !c.want.Allowed && len(arrived) > 0 {
			n.t.Errorf("%s: %s must be %s and arrived at %+v", state, c, c.want.Reason, arrived)
		} else if c.want.Allowed {
			n.arrived(state, r, c, arrived)
		}
	}
	want := map[string]uint64{}
	if first := batch[0].want; !first.Allowed {
		want[first.Reason] = uint64(len(batch))
	}
	if !maps.Equal(want, refused) {
		n.t.Errorf("%s: of %d cells, the first of which is %s, %v were refused; want %v", state, len(batch), batch[0], refused, want)
	}
	if len(got) > 0 {
		n.t.Errorf("%s: packets of other cells arrived: %v", state, got)
	}
}

// one is a cell for which it depends on the target chosen what becomes of it: exactly one of the judge's verdicts holds.
func (n *truthNet) one(state string, r *api.Resources, c truthCell, arrived []truthArrival, refused map[string]uint64) {
	n.t.Helper()
	for _, w := range c.want.Targets {
		switch {
		case w.Allowed && len(arrived) == 1 && len(refused) == 0 && n.fits(r, c, w, arrived[0]):
			return
		case !w.Allowed && len(arrived) == 0 && maps.Equal(refused, map[string]uint64{w.Reason: 1}):
			return
		}
	}
	n.t.Errorf("%s: %s: arrived %+v, refused %v; the judge's targets: %+v", state, c, arrived, refused, c.want.Targets)
}

func (n *truthNet) arrived(state string, r *api.Resources, c truthCell, arrived []truthArrival) {
	n.t.Helper()
	choices := c.want.Targets
	if len(choices) == 0 {
		choices = []judge.Verdict{c.want}
	}
	if len(arrived) == 1 && slices.ContainsFunc(choices, func(w judge.Verdict) bool { return n.fits(r, c, w, arrived[0]) }) {
		return
	}
	n.t.Errorf("%s: %s arrived as %+v; the judge: %+v", state, c, arrived, c.want)
}

// fits: a packet arrived as a verdict says.
func (n *truthNet) fits(r *api.Resources, c truthCell, w judge.Verdict, a truthArrival) bool {
	if w.Resolver {
		from, ok1 := api.ParseOverlay(a.packet.Source)
		to, ok2 := api.ParseOverlay(a.packet.Dest)
		return ok1 && ok2 && a.at == c.src.Node && from.VPC == r.VPCs[c.src.VPC].Number && from.HostAddr() == c.src.Address &&
			to.VPC == 0 && to.Host == r.Nodes[c.src.Node].Number && a.packet.DestPort == plan.ResolverPort
	}
	e := r.ENIs[a.at]
	if e == nil || a.at != w.To || a.packet.Source != w.Source || a.packet.DestPort != w.Port {
		return false
	}
	if w.Source.Is6() {
		return a.packet.Dest == api.IPv6Address(r.Mesh.Number, r.VPCs[e.VPC].Number, e.Address)
	}
	return a.packet.Dest == e.Address
}

func (n *truthNet) send(l *truthLink, frame []byte) {
	n.t.Helper()
	if err := unix.Sendto(l.tap, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.index}); err != nil {
		n.t.Fatalf("send from %s: %v", l.eni.ID, err)
	}
}

// fence sends a packet from a node to each other one and waits for it.
func (n *truthNet) fence(from string) {
	n.t.Helper()
	n.round++
	e := n.fences[from]
	for id, to := range n.fences {
		if id == from {
			continue
		}
		ip := plantest.IP{Source: e.Address, Dest: to.Address, Protocol: 17, SourcePort: fencePort, DestPort: fencePort,
			Payload: binary.BigEndian.AppendUint32(nil, n.round)}
		n.send(n.links[e.ID], ip.Workload(e.Number))
		n.await(n.heard[id], id)
	}
}

// await reads at the fence of a node until the present round's packet is there.
func (n *truthNet) await(fd int, node string) {
	n.t.Helper()
	buf := make([]byte, 2048)
	for end := time.Now().Add(fenceWithin); time.Now().Before(end); {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 100); err != nil && err != unix.EINTR {
			n.t.Fatal(err)
		}
		size, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err == nil && size >= 46 && buf[14] == 0x45 && binary.BigEndian.Uint16(buf[36:]) == fencePort &&
			binary.BigEndian.Uint32(buf[42:]) == n.round {
			return
		}
	}
	n.t.Fatalf("the fence of %s heard nothing", node)
}

// truthArrival is a cell's packet as an interface, or a node's host, received it.
type truthArrival struct {
	at     string // ENI or node
	packet plantest.IP
}

// collect takes what is at all interfaces, by cell.
func (n *truthNet) collect() map[uint32][]truthArrival {
	n.t.Helper()
	got := map[uint32][]truthArrival{}
	buf := make([]byte, 2048)
	take := func(at string, fd int) {
		for {
			size, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				break
			}
			if number, ok := cellNumber(buf[14:max(size, 14)]); ok {
				if err := plantest.Check(buf[14:size]); err != nil {
					n.t.Errorf("at %s: %v", at, err)
				}
				got[number] = append(got[number], truthArrival{at, read(buf[14:size])})
			}
		}
		if s, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || s.Drops > 0 {
			n.t.Fatalf("at %s: %d packets were not heard (%v)", at, s.Drops, err)
		}
	}
	for id, l := range n.links {
		take(id, l.tap)
	}
	for id, x := range n.nodes {
		take(id, x.tap)
	}
	return got
}

// cellNumber is what frame wrote.
func cellNumber(p []byte) (uint32, bool) {
	if len(p) < 36 {
		return 0, false
	}
	protocol, l4 := p[9], p[20:]
	if p[0]>>4 == 6 {
		if len(p) < 56 {
			return 0, false
		}
		protocol, l4 = p[6], p[40:]
	}
	if protocol == 6 {
		n := binary.BigEndian.Uint32(l4[4:]) - truthMark
		return n, n < 1<<20
	}
	return binary.BigEndian.Uint32(l4[12:]), binary.BigEndian.Uint32(l4[8:]) == truthMark
}

// frame is the cell's packet.
func (c truthCell) frame(r *api.Resources) []byte {
	p := plantest.IP{
		Source: c.src.Address, Dest: c.dest, Protocol: protocols[c.protocol], SourcePort: uint16(1024 + c.number%64000), DestPort: c.port,
		Flags: plantest.SYN, ICMPType: 8, ICMPID: uint16(1024 + c.number%64000),
	}
	if p.Seq = truthMark + c.number; p.Protocol != 6 {
		p.Payload = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, truthMark), c.number)
	}
	if c.dest.Is4() {
		return p.Workload(c.src.Number)
	}
	source := api.IPv6Address(r.Mesh.Number, r.VPCs[c.src.VPC].Number, c.src.Address)
	return plantest.Frame(plantest.GatewayMAC, plantest.MAC(c.src.Number), 0x86dd, p.IPv6(source, c.dest))
}

// refused is what the nodes refused since the last call, by reason, with what the tunnel had no peer for.
func (n *truthNet) refused() map[string]uint64 {
	n.t.Helper()
	now := map[string]uint64{}
	for _, x := range n.nodes {
		counters, err := x.dp.Counters()
		if err != nil {
			n.t.Fatal(err)
		}
		for _, c := range counters {
			if c.Reason != bpf.ReasonNone && c.Reason != bpf.ReasonForwarded {
				now[c.Reason.String()] += c.Packets
			}
		}
	}
	n.mu.Lock()
	now[judge.NotHere] += n.dropped
	if n.forged > 0 {
		n.t.Errorf("%d packets came from an address that the sending node does not have", n.forged)
	}
	n.mu.Unlock()
	since := map[string]uint64{}
	for reason, count := range now {
		if count != n.before[reason] {
			since[reason] = count - n.before[reason]
		}
	}
	n.before = now
	return since
}
