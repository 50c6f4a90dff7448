package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
)

// eventsOf are all events, the oldest first.
func eventsOf(t *testing.T, s Store) (out []api.AuditEvent) {
	t.Helper()
	page, err := s.List(t.Context(), PrefixAudit, "", 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range slices.Backward(page) {
		var e api.AuditEvent
		if err := json.Unmarshal(kv.Value, &e); err != nil {
			t.Fatal(err)
		}
		if len(kv.Value) > 1<<16-2048 {
			t.Errorf("event %d has %d bytes", e.Seq, len(kv.Value))
		}
		out = append(out, e)
	}
	return out
}

func audited(t *testing.T, s Store, e api.AuditEvent, f func(tx *Tx)) {
	t.Helper()
	if _, err := s.Txn(t.Context(), func(tx *Tx) error {
		f(tx)
		tx.Audit(e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestEventsSayWhatChanged: what was before and after, without secrets; what is as before is no change.
func TestEventsSayWhatChanged(t *testing.T) {
	both(t, func(t *testing.T, s Store, reopen func() Store) {
		vpc := &api.VPC{Meta: api.Meta{ID: "vpc-1", Account: "1", Name: "a"}, Number: 7}
		key := &api.APIKey{Meta: api.Meta{ID: "key-1", Account: "1"}, Hash: "secret"}
		audited(t, s, api.AuditEvent{Action: "make", Resource: "vpc-1"}, func(tx *Tx) { tx.Put(key); tx.Put(vpc) })
		audited(t, s, api.AuditEvent{Action: "change"}, func(tx *Tx) {
			n, same := *vpc, *key
			n.Name = "b"
			tx.Put(&n)
			tx.Audit(api.AuditEvent{Action: "first"})
			again := n
			again.Name = "c"
			tx.Put(&same)
			tx.Put(&again)
		})
		audited(t, s, api.AuditEvent{Action: "remove"}, func(tx *Tx) { tx.Remove(tx.Resources().VPCs["vpc-1"]) })
		s = reopen()
		name := func(text json.RawMessage) string {
			var v map[string]any
			if text == nil {
				return "-"
			}
			if err := json.Unmarshal(text, &v); err != nil {
				t.Fatal(err)
			}
			if v["hash"] != nil || v["revision"] != nil || strings.Contains(string(text), "secret") {
				t.Errorf("%s", text)
			}
			return fmt.Sprint(v["name"])
		}
		var got []string
		for _, e := range eventsOf(t, s) {
			for _, c := range e.Changes {
				got = append(got, fmt.Sprintf("%s %s/%s of %s: %s to %s", e.Action, c.Kind, c.ID, c.Account, name(c.Before), name(c.After)))
			}
		}
		want := []string{"make vpcs/vpc-1 of 1: - to a", "make api-keys/key-1 of 1: - to <nil>", "first vpcs/vpc-1 of 1: a to b",
			"change vpcs/vpc-1 of 1: b to c", "remove vpcs/vpc-1 of 1: c to -"}
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		var on []uint64
		page, err := s.List(t.Context(), AuditPrefixOn("vpc-1"), "", 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range page {
			seq, err := AuditSeq(kv.Key)
			if err != nil {
				t.Fatal(err)
			}
			on = append(on, seq)
		}
		if !slices.Equal(on, []uint64{4, 3, 2, 1}) {
			t.Errorf("of vpc-1: %v", on)
		}
	})
}

// TestLargeResourcesAreCut: an event says which properties it lacks, and the hash of the whole.
func TestLargeResourcesAreCut(t *testing.T) {
	s := NewMem()
	run(t, s)
	z := &api.HostedZone{Meta: api.Meta{ID: "hz-1", Account: "1", Name: "corp.internal"}}
	for i := range 1000 {
		z.RecordSets = append(z.RecordSets, api.RecordSet{Name: fmt.Sprintf("w%d.corp.internal", i), Type: "A", Values: []string{"10.0.0.1"}})
	}
	audited(t, s, api.AuditEvent{Action: "make"}, func(tx *Tx) { tx.Put(z) })
	c := eventsOf(t, s)[0].Changes[0]
	if len(c.After) > maxDocument || !slices.Equal(c.Cut, []string{"recordSets"}) || !strings.Contains(string(c.After), "corp.internal") {
		t.Errorf("%d bytes, without %v", len(c.After), c.Cut)
	}
	d, err := documentOf(z)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(d.text); c.AfterHash != hex.EncodeToString(sum[:]) || c.BeforeHash != "" {
		t.Errorf("hashes %q, %q", c.BeforeHash, c.AfterHash)
	}
}

// TestManyChangesContinue: an event that changes more than it has room for is followed by others; all changes are told, at the end
// by their hashes alone, and each once.
func TestManyChangesContinue(t *testing.T) {
	s := NewMem()
	run(t, s)
	const n = 4000
	note := strings.Repeat("x", 1000)
	audited(t, s, api.AuditEvent{Action: "make", Resource: "vpc-2000", RequestID: "r"}, func(tx *Tx) {
		for i := range n {
			tx.Put(&api.VPC{Meta: api.Meta{ID: fmt.Sprintf("vpc-%04d", i), Account: "1", Tags: map[string]string{"note": note}}})
		}
	})
	seen, whole := map[string]bool{}, 0
	events := eventsOf(t, s)
	for i, e := range events {
		if e.Seq != uint64(i+1) || e.RequestID != "r" || i > 0 && e.Continues != 1 || i == 0 && e.Continues != 0 {
			t.Fatalf("event %d: %d continues %d", i+1, e.Seq, e.Continues)
		}
		for _, c := range e.Changes {
			if seen[c.ID] {
				t.Errorf("%s twice", c.ID)
			}
			seen[c.ID] = true
			switch {
			case c.After != nil && c.AfterHash == "":
				whole++
			case c.After != nil || c.AfterHash == "" || !slices.Equal(c.Cut, []string{cutWhole}):
				t.Errorf("%+v", c)
			}
		}
	}
	if len(seen) != n || whole < 2000 || whole == n || events[0].Changes[0].ID != "vpc-2000" {
		t.Errorf("%d changes, %d of them whole, the first is %s", len(seen), whole, events[0].Changes[0].ID)
	}
}

// TestBeforeHasWhatDiffers: what is as before stands once, and yet all that was can be told.
func TestBeforeHasWhatDiffers(t *testing.T) {
	s := NewMem()
	run(t, s)
	was := &api.VPC{Meta: api.Meta{ID: "vpc-1", Account: "1", Name: "a"}, Number: 7}
	audited(t, s, api.AuditEvent{Action: "make"}, func(tx *Tx) { tx.Put(was) })
	is := *was
	is.Name, is.Tags = "b", map[string]string{"note": strings.Repeat("x", 1000)} // tags were not there before
	audited(t, s, api.AuditEvent{Action: "change"}, func(tx *Tx) { tx.Put(&is) })
	large := is
	large.Name, large.Tags = "c", map[string]string{"note": strings.Repeat("x", maxDocument)}
	audited(t, s, api.AuditEvent{Action: "grow"}, func(tx *Tx) { tx.Put(&large) })
	changes := map[string]api.AuditChange{}
	for _, e := range eventsOf(t, s) {
		changes[e.Action] = e.Changes[0]
	}
	text := func(res api.Resource) string {
		d, err := documentOf(res)
		if err != nil {
			t.Fatal(err)
		}
		return string(d.text)
	}
	told := func(c api.AuditChange) string {
		out, err := c.Was()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if c := changes["make"]; told(c) != "" || c.Same != nil {
		t.Errorf("of a new one: %+v", c)
	}
	c := changes["change"]
	if string(c.Before) != `{"name":"a"}` || !slices.Contains(c.Same, "number") || slices.Contains(c.Same, "tags") || c.BeforeHash != "" {
		t.Errorf("%s, same %v, %s", c.Before, c.Same, c.BeforeHash)
	}
	if got := told(c); got != text(was) || string(c.After) != text(&is) {
		t.Errorf("it was\n%s, not\n%s", got, text(was))
	}
	c = changes["grow"]
	sum := sha256.Sum256([]byte(text(&is)))
	if !slices.Equal(c.Cut, []string{"tags"}) || told(c) != text(&is) || c.BeforeHash != hex.EncodeToString(sum[:]) || c.AfterHash == "" {
		t.Errorf("%s, cut %v, %s", c.Before, c.Cut, c.BeforeHash)
	}
}

// TestTellingLess: a transaction that may tell less tells the rest by hash, and how much it was.
func TestTellingLess(t *testing.T) {
	s := NewMem()
	run(t, s)
	for _, most := range []int{-1, 0, 1500, 1 << 30} {
		var told *Tx
		audited(t, s, api.AuditEvent{Action: fmt.Sprint(most)}, func(tx *Tx) {
			tx.Tell(most)
			for i := range 10 {
				tx.Put(&api.VPC{Meta: api.Meta{ID: fmt.Sprintf("vpc-%d-%d", most, i), Account: "1",
					Tags: map[string]string{"note": strings.Repeat("x", 1000)}}})
			}
			told = tx
		})
		page, err := s.List(t.Context(), PrefixAudit, "", 1)
		if err != nil {
			t.Fatal(err)
		}
		var e api.AuditEvent
		if err := json.Unmarshal(page[0].Value, &e); err != nil {
			t.Fatal(err)
		}
		whole := 0
		for _, c := range e.Changes {
			if c.After != nil {
				whole++
			} else if c.AfterHash == "" {
				t.Errorf("%+v", c)
			}
		}
		events, documents, cut := told.Told()
		if want := map[int]int{1500: 1, 1 << 30: 10}[most]; whole != want || events != len(page[0].Value) || cut != (want < 10) ||
			documents < 1000*want || documents > 1500*want {
			t.Errorf("%d: %d whole; told %d of %d bytes, %d of resources, cut %v", most, whole, events, len(page[0].Value), documents, cut)
		}
	}
}
