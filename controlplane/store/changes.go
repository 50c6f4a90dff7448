package store

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// What an audit event tells of resources. An event is an entry of a log whose entries have at most 65,535 bytes (C2SP tlog-tiles), and
// a transaction at most 16 MiB: an event has so many bytes of changes, a transaction so many of resources as they were and are, and
// from then on only their hashes.
const (
	maxEventChanges = 44 << 10
	maxDocument     = 20 << 10 // of one resource before or after; two fit into an event
	// MaxDocuments is what a transaction tells of resources, in bytes.
	MaxDocuments = 3 << 20
	// cutWhole is what Cut says where nothing of a resource is told.
	cutWhole = "*"
)

// touch notes what a resource was before the transaction, or the last event of it, changes it.
func (tx *Tx) touch(k api.Kind, id string) {
	key := resourceKey(k, id)
	if _, known := tx.touched[key]; known {
		return
	}
	if tx.touched == nil {
		tx.touched = map[string]api.Resource{}
	}
	tx.touched[key] = tx.cur.Get(k, id)
}

// changes are what became of the resources since the last event of the transaction: first the one that the event is about, then by
// kind and id.
func (tx *Tx) changes(subject string) (out []api.AuditChange, err error) {
	var all []*change
	for key, was := range tx.touched {
		kind, id, _ := resourceOf(key)
		is := tx.cur.Get(kind, id)
		c := &change{AuditChange: api.AuditChange{Kind: kind, ID: id}}
		var before, after *document
		if before, err = documentOf(was); err != nil {
			return nil, err
		}
		if after, err = documentOf(is); err != nil {
			return nil, err
		}
		if bytes.Equal(before.text, after.text) {
			continue
		}
		for _, res := range []api.Resource{was, is} {
			if res != nil {
				c.Account = res.GetMeta().Account
			}
		}
		c.tell(before, after)
		all = append(all, c)
	}
	tx.touched = nil
	order := func(c *api.AuditChange) int { return slices.Index(api.Kinds, c.Kind) }
	slices.SortFunc(all, func(a, b *change) int {
		if (a.ID == subject) != (b.ID == subject) {
			return cmp.Compare(btoi(b.ID == subject), btoi(a.ID == subject))
		}
		return cmp.Or(cmp.Compare(order(&a.AuditChange), order(&b.AuditChange)), cmp.Compare(a.ID, b.ID))
	})
	for _, c := range all {
		size := len(c.Before) + len(c.After)
		if tx.documents += size; tx.documents <= tx.mostDocuments {
			continue
		}
		tx.documents -= size
		tx.cut = true
		c.hashesOnly()
	}
	for _, c := range all {
		out = append(out, c.AuditChange)
	}
	return out, nil
}

// change is what becomes of one resource, with the hashes of what it was and is.
type change struct {
	api.AuditChange
	was, is string // "" where there is none
}

// tell says what was and is, as far as there is room: of what was only what is another now.
func (c *change) tell(before, after *document) {
	c.was, c.is = before.hash(), after.hash()
	var cut []string
	c.After, cut = after.within(maxDocument)
	if before.text != nil && after.text != nil {
		before, c.Same = before.unlike(after)
	}
	was, more := before.within(maxDocument)
	c.Before = was
	if c.Cut = slices.Compact(slices.Sorted(slices.Values(append(cut, more...)))); c.Cut != nil {
		c.BeforeHash, c.AfterHash = c.was, c.is
	}
}

// hashesOnly takes out what was and is.
func (c *change) hashesOnly() {
	c.Before, c.After, c.Same = nil, nil, nil
	c.BeforeHash, c.AfterHash, c.Cut = c.was, c.is, []string{cutWhole}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// parts splits changes so that each has room in an event.
func parts(changes []api.AuditChange) (out [][]api.AuditChange) {
	const overhead = 256 // bytes of names and hashes, generously
	size := 0
	for _, c := range changes {
		n := overhead + len(c.ID) + len(c.Before) + len(c.After) + len(c.BeforeHash) + len(c.AfterHash)
		for _, name := range slices.Concat(c.Cut, c.Same) {
			n += len(name) + 3
		}
		if size += n; len(out) == 0 || size > maxEventChanges {
			out, size = append(out, nil), n
		}
		out[len(out)-1] = append(out[len(out)-1], c)
	}
	return out
}

// document is a resource as an audit event shows it: JSON with its properties sorted.
type document struct {
	text   []byte // nil: there is no resource
	fields map[string]json.RawMessage
}

// documentOf leaves out what is secret, and the revision, which is that of the write before.
func documentOf(res api.Resource) (*document, error) {
	d := &document{}
	if res == nil {
		return d, nil
	}
	text, err := json.Marshal(res)
	if err == nil {
		err = json.Unmarshal(text, &d.fields)
	}
	if err != nil {
		return nil, err
	}
	delete(d.fields, "revision")
	delete(d.fields, "hash") // of an API key's or a token's secret
	d.text = textOf(d.fields)
	return d, nil
}

// unlike is the document without the properties that another has with the same value, and their names.
func (d *document) unlike(other *document) (*document, []string) {
	out := &document{fields: map[string]json.RawMessage{}}
	var same []string
	for name, v := range d.fields {
		if bytes.Equal(v, other.fields[name]) {
			same = append(same, name)
		} else {
			out.fields[name] = v
		}
	}
	slices.Sort(same)
	out.text = textOf(out.fields)
	return out, same
}

// within is the document in at most so many bytes: where it has more, the largest properties are left out.
func (d *document) within(most int) (text json.RawMessage, cut []string) {
	if len(d.text) <= most {
		return d.text, nil
	}
	left, size := maps.Clone(d.fields), len(d.text)
	names := slices.SortedFunc(maps.Keys(left), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(left[b]), len(left[a])), cmp.Compare(a, b))
	})
	for _, name := range names {
		if size <= most {
			break
		}
		size -= len(left[name]) + len(name) + len(`"":,`)
		delete(left, name)
		cut = append(cut, name)
	}
	return textOf(left), cut
}

// textOf writes properties that were read as JSON.
func textOf(fields map[string]json.RawMessage) json.RawMessage {
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err) // what was read as JSON can be written as such
	}
	return text
}

// hash is the SHA-256 of a document, in hexadecimal; "" where there is none.
func (d *document) hash() string {
	if d.text == nil {
		return ""
	}
	sum := sha256.Sum256(d.text)
	return hex.EncodeToString(sum[:])
}
