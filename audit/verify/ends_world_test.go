package verify

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

// ends is what a node of the test does as an end of connections.
type ends struct {
	skew, stepped time.Duration // of its clock; how far that was set since the last seal
	away          bool          // its segments wait on it
	waiting       []sealedSegment
	pending       map[route]*pending // counted in flows, and in no record
	mute          bool               // an agent of before: it tells nothing of the tunnel
	through, told map[string]seal.Passage
	epoch         int
	hidden        uint64                       // of what is given to the tunnel each time
	lie           func(route, packets) packets // what it records in place of what was
	tally         seal.Tally                   // of the boot's lines
	books         bool                         // it compares its counters with its records, as agents do
	short         map[seal.Row]seal.Count      // what records told too little at the last full seal
}

// sealedSegment is on its way to the server.
type sealedSegment struct {
	lines        [][]byte
	seal         *seal.Seal
	line         []byte
	logged, kept bool
}

func segmentOf(lines [][]byte, s *seal.Seal, line []byte, logged, kept bool) sealedSegment {
	return sealedSegment{lines, s, line, logged, kept}
}

// deliver brings what waits to the server.
func (s *sealer) deliver() {
	for _, one := range s.waiting {
		if one.logged {
			s.append(leaf.OfSeal(s.now, one.seal, one.line))
		}
		path := segmentsDir + s.id + "/" + one.seal.Boot + "/" + one.seal.End.Format(hourFormat) + plainSuffix
		for _, l := range one.lines {
			if one.kept {
				s.files[path] = append(append(s.files[path], l...), '\n')
			}
		}
		if one.kept {
			s.files[path] = append(s.files[path], one.line...)
		}
	}
	s.waiting = nil
}

func (s *sealer) clock() time.Time { return s.now.Add(s.skew) }

// route is a leg, and the side of it that a node is.
type route struct {
	leg
	side  int
	local bool
}

type pending struct {
	packets
	from, to time.Time
}

// tell counts packets of a flow, which will be recorded with the next reading.
func (s *sealer) tell(r route, p packets) {
	if s.lie != nil {
		p = s.lie(r, p)
	}
	in, out := hookTunnel, hookWorkload
	if r.local {
		in = hookLocal
		s.count("", hookLocal, "NONE", p.received)
	}
	s.count(r.eni(), out, forwarded, p.sent)
	s.count(r.eni(), in, forwarded, p.received)
	if s.pending == nil {
		s.pending = map[route]*pending{}
	}
	if s.pending[r] == nil {
		s.pending[r] = &pending{from: s.now}
	}
	s.pending[r].add(p)
	s.pending[r].to = s.now
}

func (r route) eni() string {
	if r.side == consumer {
		return "eni-" + r.client
	}
	return "eni-" + r.target
}

// read records what was counted.
func (s *sealer) read() {
	for _, r := range s.routes() {
		p := s.pending[r]
		f := api.FlowRecord{Interface: r.eni(), Action: api.ActionAccept, Reason: forwarded, State: api.FlowActive, Stage: "workload",
			Side: sideNames[r.side], Connection: r.connection, Start: p.from.Add(s.skew), End: p.to.Add(s.skew)}
		t := api.FlowTuple{SrcAddr: r.client, SrcPort: 4000, DstAddr: r.target, DstPort: 443}
		if r.side == consumer {
			f.Translated, f.Packets, f.ReplyPackets = t, p.sent, p.received
		} else {
			f.Tuple, f.Packets, f.ReplyPackets, f.Stage = t, p.received, p.sent, hookTunnel
			if r.local {
				f.Stage = hookLocal
			}
		}
		f.Bytes, f.ReplyBytes = 100*f.Packets, 100*f.ReplyPackets
		s.record(f)
	}
	clear(s.pending)
}

func (s *sealer) routes() []route {
	return slices.SortedFunc(maps.Keys(s.pending), func(a, b route) int {
		return cmp.Or(compareLegs(a.leg, b.leg), cmp.Compare(a.side, b.side))
	})
}

// killed ends the agent, which loses what it had taken out of the kernel and not recorded, and what it knew of its last full seal. Another
// one goes on.
func (s *sealer) killed() {
	clear(s.pending)
	s.short, s.books = nil, true
	s.declare = append(s.declare, seal.Gap{Cause: seal.CauseRestart, From: s.sealed, To: s.clock()})
}

// balance declares what two full seals in a row miss in the records, and what those tell too much, and returns what is missed for the first
// time.
func (s *sealer) balance() map[seal.Row]seal.Count {
	counted, short := map[seal.Row]seal.Count{}, map[seal.Row]seal.Count{}
	for p, c := range s.to {
		if row, ok := seal.RowOf(p.ENI, p.Hook, p.Reason); ok {
			counted[row] = counted[row].Plus(c)
		}
	}
	for _, row := range slices.SortedFunc(maps.Keys(counted), func(a, b seal.Row) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) }) {
		less, more := s.tally.Short(row, counted[row], counted[row])
		lost := less.Least(s.short[row])
		short[row] = less.Minus(lost)
		for cause, n := range map[string]seal.Count{seal.CauseLost: lost, seal.CauseOver: more} {
			if !n.Zero() {
				s.declare = append(s.declare, seal.Gap{Cause: cause, ENI: row.ENI, Hook: row.Hook, Reason: row.Reason, Packets: n.Packets, Bytes: n.Bytes})
			}
		}
	}
	s.short = maps.Clone(short)
	return short
}

// crash is the end of the node's boot, with what was recorded and not sealed.
func (s *sealer) crash(boot string) {
	s.lines, s.sequence = nil, s.sequence-uint64(len(s.lines))
	s.ended(boot)
}

// ended is the end of the node's boot: what was counted and not recorded is not known.
func (s *sealer) ended(boot string) {
	s.declare = []seal.Gap{{Cause: seal.CauseBoot, From: s.sealed, To: s.clock()}}
	s.seal(false)
	s.reboot(boot)
	clear(s.pending)
	s.through, s.told = nil, nil
}

// step sets the node's clock.
func (s *sealer) step(d time.Duration) { s.skew, s.stepped = s.skew+d, s.stepped+d }

// passages are the rows of a full seal.
func (s *sealer) passages() (out []seal.Passage) {
	if s.mute {
		return nil
	}
	for peer, p := range s.through {
		if s.told[peer] != p {
			out = append(out, p)
		}
	}
	s.told = maps.Clone(s.through)
	slices.SortFunc(out, seal.ComparePassages)
	return out
}

// pass adds to what passed through the tunnel to a peer and from it.
func (s *sealer) pass(peer string, given, came uint64) {
	if s.through == nil {
		s.through, s.epoch = map[string]seal.Passage{}, s.epoch+1
	}
	p := s.through[peer]
	p.Peer, p.Epoch = peer, fmt.Sprint(s.id, s.epoch)
	p.Given, p.Came = p.Given+given-min(given, s.hidden), p.Came+came
	s.through[peer] = p
}

// carry is what one node sends to another over a leg, and what becomes of it.
type carry struct{ sent, lost, refused, back, backLost uint64 }

// cross has packets cross from a consumer's node to a provider's and back.
func (w *world) cross(l leg, c, p *sealer, n carry) {
	arrived, back := n.sent-n.lost, n.back-n.backLost
	local := c == p
	there := route{l, provider, local}
	c.tell(route{l, consumer, local}, packets{n.sent, back})
	p.tell(there, packets{n.back, arrived - n.refused})
	hook := hookTunnel
	if local {
		hook = hookLocal
	}
	if n.refused > 0 {
		p.count(there.eni(), hook, "GROUP_INGRESS", n.refused)
		p.refusal(there, hook, n.refused)
	}
	if !local {
		c.pass(p.id, n.sent, back)
		p.pass(c.id, n.back, arrived)
	}
}

// refusal records packets that a provider's node refused.
func (s *sealer) refusal(r route, hook string, packets uint64) {
	if r.local {
		s.count("", hookLocal, "NONE", packets)
	}
	s.record(api.FlowRecord{Interface: r.eni(), Action: api.ActionReject, Reason: "GROUP_INGRESS", Stage: hook, Packets: packets, Bytes: 100 * packets})
}

// runFor lets n times ten seconds pass, in each of which do has traffic and both nodes seal all.
func (w *world) runFor(n int, do func(i int)) {
	for i := range n {
		w.now = w.now.Add(10 * time.Second)
		do(i)
		for _, s := range w.nodes {
			s.read()
			s.seal(true)
		}
		if i%2 == 1 {
			w.tick()
		}
	}
}
