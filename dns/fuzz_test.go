package dns

import (
	"bytes"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/dns/zone"
)

// FuzzHandle: no message makes the server fail (nothing recovers here), an answer is one to the query and within its
// size, the packet is not changed, and private names are not forwarded. The corpus in testdata holds the messages of
// TestMalformed's kinds.
func FuzzHandle(f *testing.F) {
	s, hosts := offline(f), New(Config{RateLimit: -1})
	hosts.Set(corpZone(f, zone.FirewallRule{ID: "x", Action: zone.Block, Domains: []string{"two.corp.internal", "*.test"},
		Response: zone.BlockOverride, Override: "text.corp.internal", TTL: 7}))
	for _, name := range []string{"one.corp.internal.", "c0.corp.internal.", "text.corp.internal.", "x.test.", "out.corp.internal.", "x.corp.internal."} {
		data, err := withOPT(ask(name, miekg.TypeTXT), 600, false).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, true, false)
	}
	f.Fuzz(func(t *testing.T, data []byte, forwards, tcp bool) {
		vpc := shop
		if forwards {
			vpc = pay
		}
		given := bytes.Clone(data)
		// With hosted zones, rules and a firewall: names may go anywhere, and the answers are as well-formed.
		if got, wait := hosts.handleAs(vpc, data, tcp); wait != nil {
			hosts.forwards.release("")
		} else if got != nil {
			checkReply(t, data, got, tcp, false)
		}
		got, wait := s.handleAs(vpc, data, tcp)
		if !bytes.Equal(given, data) {
			t.Fatal("the query was changed")
		}
		var query miekg.Msg
		unreadable := query.Unpack(questionOf(data)) != nil || len(query.Question) != 1
		if wait != nil {
			if unreadable || !forwards || got != nil || s.Zone().Private(vpc, query.Question[0].Name) {
				t.Fatalf("forwarded: %x", data)
			}
			s.forwards.release("")
			return
		}
		if got == nil {
			if len(data) >= headerSize && data[2]&0x80 == 0 {
				t.Fatalf("no answer to %x", data)
			}
			return
		}
		checkReply(t, data, got, tcp, unreadable)
		if reply := new(miekg.Msg); len(got) > headerSize && (reply.Unpack(got) != nil || reply.Question[0] != query.Question[0]) {
			t.Fatalf("%x has another question than %x", got, data)
		}
	})
}

// questionOf is the message without what follows its question. What that may be is the server's business; but who reads the
// question otherwise than the library, answers another one.
func questionOf(data []byte) []byte {
	out := bytes.Clone(data)
	if len(out) >= headerSize {
		clear(out[6:headerSize])
	}
	return out
}

func checkReply(t *testing.T, data, got []byte, tcp, unreadable bool) {
	var reply miekg.Msg
	if err := reply.Unpack(got); err != nil {
		t.Fatalf("answer %x: %v", got, err)
	}
	if !bytes.Equal(got[:2], data[:2]) || !reply.Response {
		t.Fatalf("answer %x is none to %x", got, data)
	}
	// What may be sent over UDP is what the query says that may come, and no more than fits any path; without EDNS 512 bytes.
	most := plainUDPSize
	var query miekg.Msg
	if err := query.Unpack(data); err == nil && query.IsEdns0() != nil {
		most = min(max(int(query.IsEdns0().UDPSize()), plainUDPSize), maxUDPReply)
	} else if err != nil { // the library may refuse what is behind the question
		most = maxUDPReply
	}
	if !tcp && len(got) > most {
		t.Fatalf("%d bytes over UDP, at most %d may come", len(got), most)
	}
	if unreadable && (len(got) != headerSize || reply.Rcode == miekg.RcodeSuccess) {
		t.Fatalf("answer %x to an unreadable query", got)
	}
}

// FuzzVerify: of what a forwarder sends, only an answer to the question is taken; what is kept of it is read and sent again, to
// the client that asked and within its size.
func FuzzVerify(f *testing.F) {
	k := question{name: "www.example.org.", qtype: miekg.TypeA}
	query := ask("wWw.example.org.", miekg.TypeA)
	query.Id = 7
	good := new(miekg.Msg).SetReply(query)
	record, err := miekg.NewRR("wWw.example.org. 2147483648 IN A 192.0.2.80")
	if err != nil {
		f.Fatal(err)
	}
	alias, err := miekg.NewRR("wWw.example.org. 5 IN CNAME wWw.example.org.")
	if err != nil {
		f.Fatal(err)
	}
	good.Answer = []miekg.RR{record, alias}
	data, err := good.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-3])
	f.Add([]byte{0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 0xc0, 0x0c})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := verify(data, query)
		if err != nil {
			return
		}
		if m.Id != query.Id || !m.Response || m.Question[0] != query.Question[0] {
			t.Fatalf("%x is taken for an answer", data)
		}
		e, err := newEntry(m, k, time.Unix(0, 0))
		if err != nil {
			return
		}
		var kept miekg.Msg
		if err := kept.Unpack(e.wire); err != nil {
			t.Fatalf("%x is kept as %x: %v", data, e.wire, err)
		}
		for _, rr := range kept.Answer {
			if rr.Header().Class != miekg.ClassINET || rr.Header().Ttl > 1<<31 {
				t.Errorf("%x: kept %v", data, rr)
			}
		}
		if e.ttl < 0 {
			t.Errorf("%x: kept for %v", data, e.ttl)
		}
	})
}
