package agent

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/randomly"
)

// killed is what a process dies of in these tests, between two of its steps.
type killed struct{}

// dies reports whether f was killed.
func dies(f func()) (died bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, died = r.(killed); !died {
				panic(r)
			}
		}
	}()
	f()
	return false
}

// life is a process that counts in these words and writes to this log, and is killed after so many steps of either; 0: not.
func life(words []uint64, a *askedLog, v *api.View, steps int) *queryLog {
	l := newQueryLog(a, slog.New(slog.DiscardHandler))
	l.know(v)
	l.open = countOpen(words, "boot-1")
	step := func() {
		if steps--; steps == 0 {
			panic(killed{})
		}
	}
	l.open.wrote, a.wrote = step, step
	return l
}

// declared is how many questions of each VPC all lines stand for.
func declared(a *askedLog) map[string]uint64 {
	all := map[string]uint64{}
	for i := range a.lines {
		all[a.lines[i].VPC] += stands(&a.lines[i])
	}
	return all
}

// However often and wherever an agent is killed, each question that was answered is in a record or declared, and no other one is.
func TestQuestionsOfAKilledAgentAreDeclared(t *testing.T) {
	random := rand.New(rand.NewPCG(randomly.Seed(t), 0))
	for round := range 50 {
		words, a := make([]uint64, openWords), &askedLog{byVPC: map[string]int64{}}
		asked, cut := map[string]uint64{}, map[string]uint64{} // answered, and those in the middle of which it died
		deaths := 0
		for deaths < 20 {
			l := life(words, a, loggedView(), 1+random.IntN(40))
			for alive := true; alive; {
				if random.IntN(6) == 0 {
					alive = !dies(l.write)
					continue
				}
				vpc := uint32(5 + random.IntN(3))
				id := fmt.Sprint("vpc-", vpc)
				if l.rates["1"] != nil && random.IntN(8) == 0 { // as in a flood: lost, and told by the next record or one of its own
					l.rates["1"].questions.AllowN(time.Now(), int(l.rates["1"].questions.Tokens()))
				}
				if alive = !dies(func() { l.take(questionIn(vpc, "a.")) }); alive {
					asked[id]++
				} else {
					cut[id]++
				}
			}
			deaths++
		}
		l := life(words, a, loggedView(), 0)
		l.write()
		clear(l.alone)
		l.write()
		all := declared(a)
		for _, id := range []string{"vpc-5", "vpc-6", "vpc-7"} {
			if got := all[id]; got < asked[id] || got > asked[id]+cut[id] {
				t.Errorf("round %d, %s: lines stand for %d questions, %d were answered and %d not quite", round, id, got, asked[id], cut[id])
			}
		}
		if again := life(words, a, loggedView(), 0); len(again.open.left) != 0 {
			t.Errorf("round %d: open after all is written: %+v", round, again.open.left)
		}
	}
}

// What was open is declared for a VPC that has left meanwhile, not for another one that has its number; nothing goes from one boot of
// the host to the next.
func TestOpenQuestionsOfVPCsThatLeft(t *testing.T) {
	words, a := make([]uint64, openWords), &askedLog{byVPC: map[string]int64{}}
	l := life(words, a, loggedView(), 0)
	for _, vpc := range []uint32{6, 7, 7} {
		l.take(questionIn(vpc, "a."))
	}
	later := &api.View{VPCs: []api.ViewVPC{{ID: "vpc-new", Number: 6, Account: "3", Local: true}}}
	l = life(words, a, later, 0)
	if l.write(); len(a.lines) != 1 || a.lines[0].VPC != "vpc-7" || a.lines[0].Account != "2" || a.lines[0].Lost != 2 || l.Lost() != 3 {
		t.Errorf("declared %+v, %d lost", a.lines, l.Lost())
	}
	if o := countOpen(words, "boot-1"); len(o.left) != 0 || o.position() != (flow.Position{Segment: 1, Offset: a.end}) {
		t.Errorf("open after that: %+v; read up to %+v of %d", o.left, o.position(), a.end)
	}
	l.take(questionIn(6, "b."))
	if o := countOpen(words, "boot-1"); len(o.left) != 1 || o.left[0].asked-o.left[0].told != 1 || o.left[0].vpc != "vpc-new" {
		t.Errorf("open %+v", o.left)
	}
	if o := countOpen(words, "boot-2"); len(o.left) != 0 || len(o.slots) != 0 {
		t.Errorf("after a boot, or of another node, %+v are open", o.left)
	}
}

// Slots are given again when nothing of their VPC is open, and only then.
func TestOpenQuestionsOfManyVPCs(t *testing.T) {
	o := countOpen(make([]uint64, openWords), "boot-1")
	in := func(i int) queryVPC { return queryVPC{id: fmt.Sprintf("vpc-%017x", i), account: "123456789012"} }
	for i := range openSlots + 1 {
		o.ask(uint32(i), in(i))
	}
	o.tell(in(3).id, 1, 9)
	o.ask(7, in(7))
	o.ask(9999, in(9999))
	left := countOpen(o.words, "boot-1").left
	at := slices.IndexFunc(left, func(c openCount) bool { return c.vpc == in(9999).id })
	if len(left) != openSlots || at < 0 || left[at].account != "123456789012" || left[at].number != 9999 || left[at].sequence != 9 ||
		left[at].asked-left[at].told != 1 {
		t.Errorf("%d VPCs, of the last one %+v", len(left), left[max(at, 0)])
	}
	if left[7].asked != 2 || slices.ContainsFunc(left, func(c openCount) bool { return c.vpc == in(3).id || c.vpc == in(openSlots).id }) {
		t.Errorf("of the eighth %+v", left[7])
	}
}

// Two processes, one after the other, see the same counts in the file.
func TestOpenQuestionsInAFile(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	first, err := openCountsFile(socket, "boot-1")
	if err != nil {
		t.Fatal(err)
	}
	first.ask(5, queryVPC{id: "vpc-5", account: "1"})
	second, err := openCountsFile(socket, "boot-1")
	if err != nil || len(second.left) != 1 || second.left[0].vpc != "vpc-5" || second.left[0].asked != 1 {
		t.Errorf("%+v, %v", second, err)
	}
	if _, err := openCountsFile(filepath.Join(t.TempDir(), "absent", "agent.sock"), "boot-1"); err == nil {
		t.Error("no error where there is no folder")
	}
}
