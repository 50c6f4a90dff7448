package verify

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// shown is how many findings a transcript has after the first.
const shown = 50

// limits are what no verifier can prove from a directory and public keys.
var limits = []string{
	"that a node recorded what it saw: its root can stop programs before they count. What the other end of each connection says, says otherwise then.",
	"that there is no other log with the same key, made for somebody else: witnesses rule that out, and checkpoints that you kept yourself.",
	"times: they are the server's and the nodes' clocks. Signatures of witnesses have times of their own.",
	"that no newer part was cut off, unless you say how far the log must go: by --as-of, or by a checkpoint that you or a witness kept.",
	"that a node's key is the node's, where no certificate vouches for it, or where who has the log's key has the CA's, too: compare it with " +
		"what culvert status says on the node.",
	"what was declared as lost, and what was before the first seal of a node.",
}

// Transcript writes what was checked and what was found, for people.
func (r *Report) Transcript(w io.Writer) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	r.transcribeLog(line)
	r.transcribeRecords(line)
	line("")
	if r.OK {
		line("VERIFIED: %s. Nothing of it was changed, left out or put in since it was signed.", r.scope())
		line("The log here ends at %s, with leaf %d. %s", stamp(r.To), r.Size, cmp.Or(r.Beyond, notBeyond))
	} else {
		line("NOT VERIFIED: %d findings. The first bad thing:", len(r.Findings)+r.More)
		for i, f := range r.Findings {
			if i == 1 {
				line("Then:")
			}
			if i > shown {
				line("  and %d more", len(r.Findings)+r.More-i)
				break
			}
			line("  %s", f)
		}
	}
	line("")
	line("Not proven by this:")
	for _, l := range limits {
		line("- %s", l)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) transcribeLog(line func(string, ...any)) {
	line("Log        %s, %d leaves, root %s", cmp.Or(r.Origin, "none"), r.Size, cmp.Or(r.Root, "none"))
	if !r.From.IsZero() {
		line("Time       %s to %s", stamp(r.From), stamp(r.To))
	}
	line("Kept       %d signed checkpoints of the past", r.Checkpoints)
	for _, w := range r.Witnesses {
		at := "not under the newest checkpoint"
		if !w.At.IsZero() {
			at = "under the newest checkpoint at " + stamp(w.At)
		}
		line("Witness    %s, %s, and under %d of the past", w.Name, at, w.Checkpoints)
	}
	if len(r.Witnesses) == 0 {
		line("Witness    none was asked for: no key of one was given")
	}
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(r.Leaves)) {
		kinds = append(kinds, fmt.Sprintf("%s %d", k, r.Leaves[k]))
	}
	if len(kinds) > 0 {
		line("Leaves     %s", strings.Join(kinds, ", "))
	}
	for _, a := range r.Away {
		how := "was stopped"
		if !a.Clean {
			how = "ended without a word"
		}
		if a.Reason != "" {
			how = fmt.Sprintf("ran, and its log %q", a.Reason)
		}
		line("Away       %s to %s, %s: the server %s", stamp(a.From), stamp(a.To), a.To.Sub(a.From).Round(time.Second), how)
	}
	if r.LastEvent > 0 {
		line("Audit      events %d to %d", r.FirstEvent, r.LastEvent)
	}
}

func (r *Report) transcribeRecords(line func(string, ...any)) {
	if c := r.Copy; c != nil {
		which := "all nodes"
		if len(c.Nodes) > 0 {
			which = strings.Join(c.Nodes, ", ")
		}
		line("Copy       of %s to %s, %s", stamp(c.Since), stamp(c.Until), which)
	}
	line("Segments   %d with %d records; %d disposed of, %d not meant to be here", r.Segments, r.Records, r.Disposed, r.Elsewhere)
	for _, n := range r.Nodes {
		if n.Segments > 0 {
			line("Node       %s: %d segments, %d records, %d boots, %s to %s", n.Node, n.Segments, n.Records, n.Boots, stamp(n.From), stamp(n.To))
		}
	}
	r.transcribeSilences(line)
	r.transcribeDates(line)
	r.transcribeClaims(line)
	for _, k := range r.Keys {
		by := "by the log's word alone"
		if k.Vouched {
			by = "by the node's certificate"
		}
		line("Key        %s: %s, from leaf %d on, %s, %s", k.Node, k.ID, k.Leaf, stamp(k.At), by)
	}
	r.transcribeDisposals(line)
	line("Counters   compared with the records at %d seals", r.Balanced)
	for _, d := range r.Declared {
		line("Declared   %s, %s, %d times: %d packets, %d records, %d segments", d.Node, d.Cause, d.Times, d.Packets, d.Records, d.Seals)
	}
	if len(r.Declared) == 0 {
		line("Declared   nothing is said to be lost")
	}
	r.transcribeConnections(line)
	line("Deliveries %d here, %d elsewhere", r.Objects, r.ObjectsGone)
	if r.Ignored > 0 {
		line("Not read   %d files of the log's that prove nothing", r.Ignored)
	}
	for _, n := range r.Notes {
		line("Note       %s", n)
	}
}

// transcribeConnections tells what both ends of connections say: of those that lost most, each.
func (r *Report) transcribeConnections(line func(string, ...any)) {
	var sum Connection
	compared := 0
	for _, c := range r.Connections {
		sum.Sent, sum.Received, sum.Lost, sum.Slack = sum.Sent+c.Sent, sum.Received+c.Received, sum.Lost+c.Lost, sum.Slack+c.Slack
		if c.Compared {
			compared++
		}
	}
	line("Both ends  %d connections, %d compared wholly: %d packets sent, %d received, %d lost between; %d are of times that not both have told",
		len(r.Connections), compared, sum.Sent, sum.Received, sum.Lost, sum.Slack)
	most := slices.Clone(r.Connections)
	slices.SortStableFunc(most, func(a, b Connection) int { return cmp.Compare(b.Lost, a.Lost) })
	for i, c := range most {
		if i == shown {
			line("Connection %d more", len(most)-i)
			break
		}
		line("Connection %s: %s", c.Connection, c.text())
	}
}

func (c *Connection) text() string {
	tunnel := "its tunnels do not all count"
	if c.Measured {
		tunnel = fmt.Sprintf("its tunnels lost %d at most", c.Tunnel)
	}
	text := fmt.Sprintf("%d packets sent, %d received, %d lost, %s; %d are of times that not both have told", c.Sent, c.Received, c.Lost, tunnel, c.Slack)
	if c.Excused > 0 {
		text += fmt.Sprintf(", %d are declared or refused", c.Excused)
	}
	if !c.Compared {
		text += "; not compared, or not wholly: " + strings.Join(c.Why, ", ")
	}
	return text
}

// transcribeDisposals names the newest disposals.
func (r *Report) transcribeDisposals(line func(string, ...any)) {
	from := max(0, len(r.Disposals)-shown)
	if from > 0 {
		line("Disposal   %d before these", from)
	}
	for _, d := range r.Disposals[from:] {
		line("Disposal   %s, %s, by %s at %s: %q", d.ID, d.Class, d.By, stamp(d.At), d.Reason)
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
