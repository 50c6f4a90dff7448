package flow

import (
	"maps"
	"slices"
	"sync"

	"github.com/culvert-net/culvert/audit/seal"
)

const booksName = "counters.json"

// books say what the datapath's counters are counters of. The datapath counts what an interface that is gone had counted for none; here
// stands how much that was, before it happens, so that both can be told apart afterwards, also after a crash in between.
type books struct {
	store Store

	mu       sync.Mutex // guards what follows; never held over I/O
	page     booksPage
	stale    bool                  // the disk has folds that were settled
	durable  map[rowKey]seal.Count // folds that the disk has
	proposed map[rowKey]seal.Count // folds that the datapath waits for
}

// booksPage is the content of counters.json.
type booksPage struct {
	Boot  string            `json:"boot"`
	Names map[uint32]string `json:"names"` // ids of interfaces, by number
	Folds []booksFold       `json:"folds,omitempty"`
	Sums  []stand           `json:"sums,omitempty"` // folded into none and sealed, by hook and reason
}

// booksFold is the final count of a row.
type booksFold struct {
	rowKey
	To seal.Count `json:"to"`
}

// openBooks reads what is known of this boot. Damage is as a boot of which nothing is known: what differs is declared.
func openBooks(s Store, boot string) (*books, error) {
	b := &books{store: s, durable: map[rowKey]seal.Count{}, proposed: map[rowKey]seal.Count{}}
	if _, err := getJSON(s, booksName, &b.page); err != nil {
		return nil, err
	}
	if b.page.Boot != boot {
		b.page = booksPage{Boot: boot}
	}
	if b.page.Names == nil {
		b.page.Names = map[uint32]string{}
	}
	for _, f := range b.page.Folds {
		b.durable[f.rowKey] = f.To
	}
	return b, nil
}

// Fold tells which of these final counts the datapath may count for no interface: those that are on the disk. Others will be; it does
// not wait.
func (b *books) Fold(final []Counter) (ready []bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ready = make([]bool, len(final))
	for i := range final {
		k, n := final[i].key(), final[i].count()
		if b.page.Names[k.ENI] == "" { // is counted for none already
			ready[i] = true
			continue
		}
		known, ok := b.durable[k]
		if ready[i] = ok && known == n; !ready[i] {
			b.proposed[k] = n
		}
	}
	return ready
}

// keep writes what is new: names of the counters' interfaces, and folds.
func (b *books) keep(counters []Counter, name func(uint32) string) error {
	b.mu.Lock()
	page, changed := b.page, b.stale || len(b.proposed) > 0
	page.Names = map[uint32]string{}
	for i := range counters {
		n := counters[i].ENI
		if n == 0 || page.Names[n] != "" {
			continue
		}
		if id := b.page.Names[n]; id != "" {
			page.Names[n] = id
		} else if id := name(n); id != "" {
			page.Names[n] = id
			changed = true
		}
	}
	page.Folds = slices.Clone(page.Folds)
	for k, n := range b.proposed {
		page.Folds = slices.DeleteFunc(page.Folds, func(f booksFold) bool { return f.rowKey == k })
		page.Folds = append(page.Folds, booksFold{k, n})
	}
	for _, f := range page.Folds { // is needed to say whose it was
		page.Names[f.ENI] = b.page.Names[f.ENI]
	}
	proposed := maps.Clone(b.proposed)
	b.mu.Unlock()
	if !changed {
		return nil
	}
	if err := putJSON(b.store, booksName, page); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.page, b.stale = page, false
	clear(b.durable)
	for _, f := range page.Folds {
		b.durable[f.rowKey] = f.To
		if proposed[f.rowKey] == f.To {
			delete(b.proposed, f.rowKey)
		}
	}
	return nil
}

// read puts two readings of the counters beside each other, by what they are of. A fold whose row has begun to go is final, and what went
// is taken from where it is counted now.
func (b *books) read(before, after []Counter) map[place]count {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[place]count{}
	raw := map[rowKey]seal.Count{}
	for i := range before {
		c := &before[i]
		p := b.place(c.key())
		n := out[p]
		n.before = n.before.Plus(c.count())
		out[p] = n
	}
	for i := range after {
		c := &after[i]
		raw[c.key()] = c.count()
		p := b.place(c.key())
		n := out[p]
		n.after = n.after.Plus(c.count())
		out[p] = n
	}
	for _, f := range b.page.Folds {
		left := raw[f.rowKey]
		if moved := f.To.Minus(left); !moved.Zero() {
			b.move(out, b.place(f.rowKey), f.To, moved, left.Zero())
		}
	}
	for _, s := range b.page.Sums {
		p := place{Hook: s.Hook, Reason: s.Reason}
		n := out[p]
		n.before, n.after = n.before.Minus(s.To), n.after.Minus(s.To)
		out[p] = n
	}
	return out
}

// move takes back what went from p to no interface.
func (b *books) move(counts map[place]count, p place, to, moved seal.Count, final bool) {
	counts[p] = count{to, to, final}
	none := place{Hook: p.Hook, Reason: p.Reason}
	n := counts[none]
	n.after = n.after.Minus(moved)
	n.before = n.before.Least(n.after) // it may have been read before the fold
	counts[none] = n
}

func (b *books) place(k rowKey) place { return place{b.page.Names[k.ENI], k.Hook, k.Reason} }

// settle takes the final positions that were sealed out of the folds; the next keep writes that, and closed has to be kept until then.
func (b *books) settle(closed map[place]bool) {
	if len(closed) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	left := b.page.Folds[:0:0]
	for _, f := range b.page.Folds {
		p := b.place(f.rowKey)
		if !closed[p] {
			left = append(left, f)
			continue
		}
		b.stale = true
		delete(b.durable, f.rowKey)
		b.sum(p, f.To)
	}
	b.page.Folds = left
}

func (b *books) sum(p place, n seal.Count) {
	b.page.Sums = slices.Clone(b.page.Sums)
	for i := range b.page.Sums {
		if s := &b.page.Sums[i]; s.Hook == p.Hook && s.Reason == p.Reason {
			s.To = s.To.Plus(n)
			return
		}
	}
	b.page.Sums = append(b.page.Sums, stand{place: place{Hook: p.Hook, Reason: p.Reason}, To: n})
}
