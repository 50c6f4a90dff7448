package dns

import (
	"bytes"
	"testing"

	miekg "github.com/miekg/dns"
)

// FuzzHandle: no message makes the server fail (nothing recovers here), an answer is one to the query and within its
// size, the packet is not changed, and private names are not forwarded. The corpus in testdata holds the messages of
// TestMalformed's kinds.
func FuzzHandle(f *testing.F) {
	s := offline(f)
	f.Fuzz(func(t *testing.T, data []byte, forwards, tcp bool) {
		vpc := shop
		if forwards {
			vpc = pay
		}
		given := bytes.Clone(data)
		got, wait := s.handleAs(vpc, data, tcp)
		if !bytes.Equal(given, data) {
			t.Fatal("the query was changed")
		}
		var query miekg.Msg
		unreadable := query.Unpack(data) != nil || len(query.Question) != 1
		if wait != nil {
			if unreadable || !forwards || got != nil || s.Zone().Private(vpc, query.Question[0].Name) {
				t.Fatalf("forwarded: %x", data)
			}
			s.forwards.release("")
			return
		}
		if got == nil {
			if len(data) >= minQuery && data[2]&flagResponse == 0 {
				t.Fatalf("no answer to %x", data)
			}
			return
		}
		checkReply(t, data, got, tcp, unreadable)
	})
}

func checkReply(t *testing.T, data, got []byte, tcp, unreadable bool) {
	var reply miekg.Msg
	if err := reply.Unpack(got); err != nil {
		t.Fatalf("answer %x: %v", got, err)
	}
	if !bytes.Equal(got[:2], data[:2]) || !reply.Response {
		t.Fatalf("answer %x is none to %x", got, data)
	}
	if !tcp && len(got) > maxUDPReply {
		t.Fatalf("%d bytes over UDP", len(got))
	}
	if unreadable && (len(got) != minQuery || reply.Rcode == miekg.RcodeSuccess) {
		t.Fatalf("answer %x to an unreadable query", got)
	}
}
