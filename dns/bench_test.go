package dns

import (
	"net"
	"testing"

	miekg "github.com/miekg/dns"
)

func BenchmarkServe(b *testing.B) {
	for _, c := range []struct {
		name, question string
		qtype          uint16
	}{
		{"address", "ledger.pay.internal.", miekg.TypeA},
		{"nodata", "ledger.pay.internal.", miekg.TypeAAAA},
		{"nxdomain", "x.ledger.pay.internal.", miekg.TypeA},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := offline(b)
			data, err := withOPT(ask(c.question, c.qtype), 1232, false).Pack()
			if err != nil {
				b.Fatal(err)
			}
			st, buf := s.state.Load(), make([]byte, maxQuery)
			b.ReportAllocs()
			for b.Loop() {
				if out, _ := s.handle(st, packet{client: client{shop, clientAddr}, data: data}, buf); out == nil {
					b.Fatal("no answer")
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
		})
	}
}

// BenchmarkServeUDP has client and server on loopback, 32 queries on the way.
func BenchmarkServeUDP(b *testing.B) {
	r := start(b, Config{RateLimit: -1}, testZone(b))
	conn, err := net.Dial("udp", r.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	data, err := ask("ledger.pay.internal.", miekg.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1500)
	const window = 32
	for i := range b.N {
		if _, err := conn.Write(data); err != nil {
			b.Fatal(err)
		}
		if i >= window {
			if _, err := conn.Read(buf); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
}
