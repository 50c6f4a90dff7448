package health

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// MaxMessage is the longest message in bytes: what every path between two nodes carries in one piece (plan.MaxMessage).
const MaxMessage = 1152

// Kind of a message.
type Kind uint8

// Kinds.
const (
	KindDigest   Kind = 1 // what a node knows of its targets, or a part of it
	KindQuestion Kind = 2 // are you there?
	KindAnswer   Kind = 3 // to a question
	KindSuspect  Kind = 4 // probe that target of yours now
)

// Message is one datagram. What it is from says its source address, which the tunnel has proved.
type Message struct {
	Kind    Kind
	Digest  Digest // KindDigest
	Nonce   uint64 // KindQuestion, KindAnswer: the question's
	Suspect Key    // KindSuspect
}

// Digest is what a node says of its targets. One that does not fit a message is cut into several of equal Seq.
type Digest struct {
	Boot    uint64 // of the agent's run, random
	Seq     uint64 // grows within a boot
	Leaving bool   // the agent ends, and another one follows
	Reports []Report
}

// Report is one target's state.
type Report struct {
	Key
	State  State
	Reason Reason
	Age    time.Duration // of the state, on the wire in milliseconds, at most 2^32
	Doubt  bool          // as in Status
}

// magic begins every message: it names the format.
const magic = "cvh1"

// flagLeaving is in a digest's flags.
const flagLeaving = 1

// doubtBit is in the byte of a report's state.
const doubtBit = 0x80

var (
	errShort   = errors.New("the message ends too early")
	errForeign = errors.New("no message of this protocol")
)

// Encode writes messages; digests that do not fit one are cut. Targets of unknown state are left out.
func Encode(m Message) [][]byte {
	b := append([]byte(magic), byte(m.Kind))
	switch m.Kind {
	case KindDigest:
		return encodeDigest(b, &m.Digest)
	case KindQuestion, KindAnswer:
		b = binary.BigEndian.AppendUint64(b, m.Nonce)
	case KindSuspect:
		b = appendKey(b, m.Suspect)
	}
	return [][]byte{b}
}

func encodeDigest(head []byte, d *Digest) (messages [][]byte) {
	flags := byte(0)
	if d.Leaving {
		flags = flagLeaving
	}
	head = append(head, flags)
	head = binary.BigEndian.AppendUint64(head, d.Boot)
	head = binary.BigEndian.AppendUint64(head, d.Seq)
	b := append([]byte(nil), head...)
	for _, r := range d.Reports {
		if r.State == Unknown {
			continue
		}
		one := appendKey(nil, r.Key)
		state := byte(r.State)
		if r.Doubt {
			state |= doubtBit
		}
		one = append(one, state, byte(r.Reason))
		one = binary.BigEndian.AppendUint32(one, uint32(min(max(r.Age.Milliseconds(), 0), 1<<32-1)))
		if len(b)+len(one) > MaxMessage {
			messages = append(messages, b)
			b = append([]byte(nil), head...)
		}
		b = append(b, one...)
	}
	return append(messages, b)
}

func appendKey(b []byte, k Key) []byte {
	b = binary.BigEndian.AppendUint32(b, k.TargetGroup)
	address := k.Target.Addr().As4()
	b = append(b, address[:]...)
	return binary.BigEndian.AppendUint16(b, k.Target.Port())
}

// Parse reads a message. It comes from another node, which may be hostile.
func Parse(b []byte) (m Message, err error) {
	if len(b) > MaxMessage || len(b) < len(magic)+1 || string(b[:len(magic)]) != magic {
		return m, errForeign
	}
	r := reader{b: b[len(magic):]}
	m.Kind = Kind(r.uint8())
	switch m.Kind {
	case KindDigest:
		flags := r.uint8()
		m.Digest.Leaving = flags&flagLeaving != 0
		if flags&^flagLeaving != 0 {
			return Message{}, fmt.Errorf("flags %#x are unknown", flags)
		}
		m.Digest.Boot, m.Digest.Seq = r.uint64(), r.uint64()
		for !r.short && len(r.b) > 0 {
			report := Report{Key: r.key()}
			state := r.uint8()
			report.State, report.Doubt, report.Reason = State(state&^doubtBit), state&doubtBit != 0, Reason(r.uint8())
			report.Age = time.Duration(r.uint32()) * time.Millisecond
			if s := report.State; !r.short && (s < Initial || s > Unhealthy) {
				return Message{}, fmt.Errorf("state %d is unknown", s)
			}
			if report.Reason >= reasonsEnd { // of a newer agent
				report.Reason = ReasonFailed
			}
			m.Digest.Reports = append(m.Digest.Reports, report)
		}
	case KindQuestion, KindAnswer:
		m.Nonce = r.uint64()
	case KindSuspect:
		m.Suspect = r.key()
	default:
		return Message{}, fmt.Errorf("kind %d is unknown", m.Kind)
	}
	if r.short {
		return Message{}, errShort
	}
	if len(r.b) > 0 {
		return Message{}, fmt.Errorf("%d bytes too many", len(r.b))
	}
	return m, nil
}

// reader takes fields off a message; short says that one was not whole.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n || r.short {
		r.short, r.b = true, nil
		return make([]byte, n)
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) uint8() uint8   { return r.take(1)[0] }
func (r *reader) uint16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) uint32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *reader) key() (k Key) {
	k.TargetGroup = r.uint32()
	address := netip.AddrFrom4([4]byte(r.take(4)))
	k.Target = netip.AddrPortFrom(address, r.uint16())
	return k
}
