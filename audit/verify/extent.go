package verify

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/audit/tiles"
)

const (
	checkpointFlag = "the checkpoint that was kept"
	notBeyond      = "Whether it went on from there is not known: say so with --as-of or --checkpoint."
)

// Kept is a signed checkpoint of the log that was kept elsewhere.
type Kept struct {
	From string // where, as findings name it
	Text string
	// Witnessed: it counts with the signature of a witness alone, whose key was given.
	Witnessed bool
}

// earlier is a checkpoint that was kept elsewhere, and is good.
type earlier struct {
	*tiles.Signed
	from string
	by   string    // the witness that cosigned it; "": the log signed it
	at   time.Time // when, as the witness says
}

// readEarlier takes the checkpoints that were kept elsewhere. One counts with the log's signature, or with that of a witness.
func (v *verifier) readEarlier() {
	all := v.o.Kept
	if v.o.Checkpoint != "" {
		all = append([]Kept{{From: checkpointFlag, Text: v.o.Checkpoint}}, all...)
	}
	for _, k := range all {
		c, err := tiles.ParseSigned([]byte(k.Text))
		if err != nil {
			v.logBad(k.From, "%s", err)
			continue
		}
		if name := v.keys.Logs[0].Name(); c.Origin != name {
			v.logBad(k.From, "is of the log %q, the key is that of %q", c.Origin, name)
			continue
		}
		e := earlier{Signed: c, from: k.From}
		good := !k.Witnessed && v.signedByOne(c, v.keys.Logs) != nil
		if s := v.signedByOne(c, v.keys.Witnesses); s != nil && len(s.Signature) > 8 {
			good, e.by, e.at = true, s.Name, time.Unix(int64(binary.BigEndian.Uint64(s.Signature)), 0).UTC()
		}
		switch {
		case good:
			v.earlier = append(v.earlier, e)
		case k.Witnessed:
			v.logBad(k.From, "has no signature that fits of a witness whose key was given")
		default:
			v.logBad(k.From, "has no signature that fits of a key that was given")
		}
	}
}

// signedByOne is the signature of a checkpoint that one of the keys made; nil: none did.
func (v *verifier) signedByOne(c *tiles.Signed, keys []note.Verifier) *tiles.By {
	for i := range c.By {
		s := &c.By[i]
		for _, k := range keys {
			if k.Name() == s.Name && k.KeyHash() == s.KeyHash && v.signed(k, c.Text, s.Signature) {
				return s
			}
		}
	}
	return nil
}

// SplitCheckpoints splits a text that has one checkpoint behind the other. What is none stays as it is, and is found then.
func SplitCheckpoints(text string) (all []string) {
	var one strings.Builder
	signed := false // a signature of this one was read
	for line := range strings.Lines(text) {
		is := strings.HasPrefix(line, "— ")
		if signed && !is {
			all = append(all, one.String())
			one.Reset()
			signed = false
			if strings.TrimSpace(line) == "" {
				continue
			}
		}
		if one.Len() == 0 && strings.TrimSpace(line) == "" {
			continue
		}
		one.WriteString(line)
		signed = signed || is
	}
	if one.Len() > 0 {
		all = append(all, one.String())
	}
	return all
}

// reached compares the tree with the checkpoints that were kept elsewhere, where it has their size.
func (v *verifier) reached() {
	for _, e := range v.earlier {
		if e.Size == v.log.tree.Size && e.Root != v.log.tree.Root() {
			v.logBad(e.from, "is of %d leaves, of which the entries here have another root: these are two logs under one key", e.Size)
		}
	}
}

// extent judges whether the log, and the copy, go as far as they are said or asked to.
func (v *verifier) extent() {
	r, o := v.report, &v.o
	r.Since, r.Until, r.Node, r.LogOnly = o.Since, o.Until, o.Node, o.AuditOnly
	var shown []string
	for _, e := range v.earlier {
		who := "that was kept"
		if e.by != "" {
			who = fmt.Sprintf("that %s cosigned at %s", e.by, stamp(e.at))
		}
		if e.Size > v.log.tree.Size {
			what := "what came then was cut off"
			if e.by != "" && o.AsOf.IsZero() {
				what += ", or this copy was made before then: say when, by --as-of"
			}
			v.logBad(e.from, "is of %d leaves and %s, the log here has %d: %s", e.Size, strings.TrimPrefix(who, "that "), v.log.tree.Size, what)
		}
		shown = append(shown, fmt.Sprintf("It goes on from the checkpoint of %d leaves %s.", e.Size, who))
	}
	end := r.To.Add(MaxSilence)
	if !o.AsOf.IsZero() {
		if o.AsOf.After(end) {
			v.logBad(logDir+tiles.Checkpoint, "the log here ends at %s, before %s (as-of): what came then was cut off, or the server was stopped",
				stamp(r.To), stamp(o.AsOf))
		}
		shown = append(shown, "It goes as far as "+stamp(o.AsOf)+".")
	}
	r.Beyond = strings.Join(shown, " ")
	switch {
	case o.Until.After(end):
		v.logBad(logDir+tiles.Checkpoint, "the log here ends at %s: of what was asked for, until %s, it cannot tell", stamp(r.To), stamp(o.Until))
	case o.Since.After(end):
		v.logBad(logDir+tiles.Checkpoint, "the log here ends at %s: of what was asked for, from %s on, it cannot tell", stamp(r.To), stamp(o.Since))
	}
	m := v.manifest
	if m == nil || o.AuditOnly {
		return
	}
	if !m.Since.IsZero() && !o.Since.IsZero() && o.Since.Before(m.Since) || !m.Until.IsZero() && o.Until.After(m.Until) {
		v.logBad(manifestName, "this copy has %s to %s, asked for was more", stamp(m.Since), stamp(m.Until))
	}
	if o.Node != "" && len(m.Nodes) > 0 && !slices.Contains(m.Nodes, o.Node) {
		v.logBad(manifestName, "this copy has nothing of node %s, only of %s", o.Node, strings.Join(m.Nodes, ", "))
	}
}

// elsewhere says what was found of nodes that were not asked for.
func (v *verifier) elsewhere() {
	if v.others > 0 {
		v.note("%d findings are of nodes other than %s, and are not listed", v.others, v.o.Node)
	}
}

// scope is what was judged, for the line that says that it holds.
func (r *Report) scope() string {
	if r.LogOnly {
		return "the log with all audit events"
	}
	since, until, nodes := r.Since, r.Until, "all nodes"
	if c := r.Copy; c != nil {
		if since.IsZero() {
			since = c.Since
		}
		if until.IsZero() {
			until = c.Until
		}
		if len(c.Nodes) > 0 {
			nodes = "only " + strings.Join(c.Nodes, ", ")
		}
	}
	if r.Node != "" {
		nodes = "only " + r.Node
	}
	from, to := "from its beginning", "to its end"
	if !since.IsZero() {
		from = "from " + stamp(since)
	}
	if !until.IsZero() {
		to = "to " + stamp(until)
	}
	return "the log, and the records of " + nodes + " " + from + " " + to
}
