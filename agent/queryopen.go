package agent

import (
	"encoding/binary"
	"slices"
	"sync/atomic"

	"github.com/culvert-net/culvert/agent/flow"
)

// openCounts counts the questions of each VPC that are in no record yet, in memory that outlives the process (decision 0029): who is
// killed leaves behind how many there were, and its successor declares them. The caller holds the lock of its queryLog.
//
// Of a slot's two notes one counts: how many questions records tell, and up to which sequence of the log; lines behind that are in no
// note. It changes by writing the other note and then saying that this one counts, so what a slot says is true at whatever moment
// the process ends.
type openCounts struct {
	words []uint64
	slots map[string]int // by VPC: where in words
	left  []openCount    // by whoever counted here before
	wrote func()         // after each word, for tests; nil: nothing
}

// openCount is what a slot says.
type openCount struct {
	vpc, account string
	number       uint32
	asked, told  uint64
	sequence     uint64
}

// Sizes in words of eight bytes, and places of words in the head and in a slot. Texts that are longer than their place are not kept.
const (
	openSlots = 1024 // VPCs of which something is open
	slotWords = 16
	openWords = slotWords * (1 + openSlots) // the head is as large as a slot

	headMagic, headPosition, headWhose, headWhoseWords  = 0, 1, 2, 8
	slotAsked, slotWhich, slotNotes, slotNumber         = 0, 1, 2, 6 // a note is told and sequence
	slotVPC, slotVPCWords, slotAccount, slotAccountWord = 7, 4, 11, 4

	openMagic = 0x0001_6e65_706f_7663 // "cvopen" and a version

	offsetBits = 40 // of a position in the log, for the place in the segment; segments are some MiB
)

// countOpen counts in these words, and goes on where somebody else of the same name stopped: of this node and this boot of its host.
func countOpen(words []uint64, whose string) *openCounts {
	o := &openCounts{words: words, slots: map[string]int{}}
	if words[headMagic] != openMagic || o.text(headWhose, headWhoseWords) != whose {
		clear(words)
		o.setText(headWhose, headWhoseWords, whose)
		o.set(headMagic, openMagic)
	}
	for at := slotWords; at < len(words); at += slotWords {
		c := o.count(at)
		if c.vpc == "" {
			continue
		}
		o.slots[c.vpc] = at
		if c.asked != c.told {
			o.left = append(o.left, c)
		}
	}
	return o
}

func (o *openCounts) count(at int) openCount {
	note := o.note(at)
	return openCount{
		vpc: o.text(at+slotVPC, slotVPCWords), account: o.text(at+slotAccount, slotAccountWord), number: uint32(o.words[at+slotNumber]),
		asked: o.words[at+slotAsked], told: o.words[note], sequence: o.words[note+1],
	}
}

// note is where the one of the slot's notes is that counts.
func (o *openCounts) note(at int) int { return at + slotNotes + 2*int(o.words[at+slotWhich]&1) }

func (o *openCounts) set(at int, v uint64) {
	atomic.StoreUint64(&o.words[at], v)
	if o.wrote != nil {
		o.wrote()
	}
}

func (o *openCounts) setNote(at int, told, sequence uint64) {
	which := o.words[at+slotWhich]&1 ^ 1
	other := at + slotNotes + 2*int(which)
	o.set(other, told)
	o.set(other+1, sequence)
	o.set(at+slotWhich, which)
}

// ask counts a question, before it is answered.
func (o *openCounts) ask(number uint32, in queryVPC) {
	at, known := o.slots[in.id]
	if !known {
		if at, known = o.claim(number, in); !known {
			return
		}
	}
	o.set(at+slotAsked, o.words[at+slotAsked]+1)
}

// claim gives a VPC a slot of which nothing is open, and that says so while it changes hands. What lines of before tell is not open either.
func (o *openCounts) claim(number uint32, in queryVPC) (at int, ok bool) {
	if len(in.id) > slotVPCWords*8 || len(in.account) > slotAccountWord*8 {
		return 0, false
	}
	var newest uint64
	empty := false
	for i := slotWords; i < len(o.words); i += slotWords {
		c := o.count(i)
		newest = max(newest, c.sequence)
		switch {
		case c.vpc == "" && !empty:
			at, empty = i, true
		case c.asked == c.told && at == 0:
			at = i
		}
	}
	if at == 0 {
		return 0, false
	}
	delete(o.slots, o.text(at+slotVPC, slotVPCWords))
	o.setNote(at, o.words[at+slotAsked], newest)
	o.set(at+slotNumber, uint64(number))
	o.setText(at+slotVPC, slotVPCWords, in.id)
	o.setText(at+slotAccount, slotAccountWord, in.account)
	o.slots[in.id] = at
	return at, true
}

// tell notes that so many questions of a VPC more are told, by lines up to that sequence.
func (o *openCounts) tell(vpc string, n, sequence uint64) {
	if at, known := o.slots[vpc]; known {
		o.setNote(at, o.words[o.note(at)]+n, sequence)
	}
}

// reached notes that all lines before a position in the log are in notes.
func (o *openCounts) reached(p flow.Position) {
	o.set(headPosition, p.Segment<<offsetBits|uint64(p.Offset)&(1<<offsetBits-1))
}

func (o *openCounts) position() flow.Position {
	v := o.words[headPosition]
	return flow.Position{Segment: v >> offsetBits, Offset: int64(v & (1<<offsetBits - 1))}
}

// text and setText read and write a text of so many words, filled up with zeros.
func (o *openCounts) text(at, words int) string {
	var b []byte
	for _, w := range o.words[at : at+words] {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	if i := slices.Index(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func (o *openCounts) setText(at, words int, text string) {
	b := make([]byte, words*8)
	copy(b, text)
	for i := range words {
		o.set(at+i, binary.LittleEndian.Uint64(b[8*i:]))
	}
}
