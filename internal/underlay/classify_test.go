package underlay

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"testing"
)

func frame(proto byte, sport, dport uint16, l4 []byte) []byte {
	ip := make([]byte, 20)
	ip[0], ip[9] = 0x45, proto
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(l4)))
	copy(ip[12:], []byte{10, 99, 0, 10, 10, 99, 0, 11})
	binary.BigEndian.PutUint16(l4, sport)
	binary.BigEndian.PutUint16(l4[2:], dport)
	return append(append(make([]byte, 12), 0x08, 0x00), append(ip, l4...)...)
}

func udp(port uint16, payload []byte) []byte {
	return frame(17, 40000, port, append(make([]byte, 8), payload...))
}

func tcp(port uint16, seq uint32, payload []byte) []byte {
	h := make([]byte, 20)
	h[12] = 5 << 4
	binary.BigEndian.PutUint32(h[4:], seq)
	return frame(6, 40000, port, append(h, payload...))
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func tlsRecord(n int) []byte { return append([]byte{23, 3, 3, byte(n >> 8), byte(n)}, random(n)...) }

func wg(kind byte, n int) []byte { return append([]byte{kind, 0, 0, 0}, random(n-4)...) }

var ports = Ports{WireGuard: 51820, Gossip: 7946, Server: 7443}

func TestClassify(t *testing.T) {
	arp := append(make([]byte, 12), 0x08, 0x06)
	about := func(about []byte) []byte { return frame(1, 3<<8|3, 0, append(make([]byte, 8), about[14:]...)) }
	long := append(random(20), []byte("a line of text that somebody forgot to encrypt")...)
	for _, c := range []struct {
		name  string
		frame []byte
		want  Class
	}{
		{"initiation", udp(51820, wg(1, 148)), WireGuard},
		{"response", udp(51820, wg(2, 92)), WireGuard},
		{"cookie", udp(51820, wg(3, 64)), WireGuard},
		{"data", udp(51820, wg(4, 1452)), WireGuard},
		{"initiation of wrong length", udp(51820, wg(1, 149)), Unknown},
		{"unknown type", udp(51820, wg(5, 100)), Unknown},
		{"reserved bytes", udp(51820, []byte{4, 1, 0, 0, 1, 2, 3, 4}), Unknown},
		{"other port", udp(53, wg(4, 100)), Unknown},
		{"gossip", udp(7946, random(20)), Gossip},
		{"gossip in clear", udp(7946, long), Clear},
		{"gossip stream in clear", tcp(7946, 1, long), Clear},
		{"nobody listens for wireguard", about(udp(51820, wg(4, 100))), ICMPError},
		{"nobody listens for gossip", about(udp(7946, random(20))), ICMPError},
		{"nobody listens for something else", about(udp(53, random(20))), Unknown},
		{"nobody listens for text on gossip's port", about(udp(7946, long)), Clear},
		{"echo request", frame(1, 8<<8, 0, random(64)), Unknown},
		{"group membership", frame(2, 0x2200, 0, make([]byte, 16)), Groups},
		{"text as group membership", frame(2, 0x2200, 0, long), Clear},
		{"arp", append(arp, random(28)...), ARP},
		{"no data", tcp(7443, 1, nil), TCPEmpty},
		{"http on the server's port", tcp(7443, 1, []byte("GET /v1/vpcs/vpc-0a1b2c3d HTTP/1.1\r\nHost: server\r\n\r\n")), Clear},
		{"telnet", tcp(23, 1, []byte("hello")), Unknown},
		{"vlan", append(make([]byte, 12), 0x81, 0x00, 0, 1), Unknown},
		{"runt", []byte{1, 2, 3}, Unknown},
		{"marker in ciphertext's place", udp(51820, append(wg(4, 64), "SECRET-MARKER"...)), Clear},
	} {
		cl := Classifier{Ports: ports, Markers: [][]byte{[]byte("SECRET-MARKER")}}
		if got, why := cl.Classify(c.frame); got != c.want {
			t.Errorf("%s: %s (%s), want %s", c.name, got, why, c.want)
		}
	}
}

func TestTLSIsFollowedAcrossSegments(t *testing.T) {
	stream := bytes.Join([][]byte{tlsRecord(300), tlsRecord(5000), tlsRecord(1)}, nil)
	for _, mss := range []int{1, 3, 4, 5, 100, 1448} {
		cl := Classifier{Ports: ports}
		seq := uint32(0xfffffff0) // wraps
		for rest := stream; len(rest) > 0; {
			n := min(mss, len(rest))
			if mss < 5 && seq == 0xfffffff0 {
				n = 5 // the first segment shows where records begin
			}
			for range 2 { // each twice: repeated segments change nothing
				if got, why := cl.Classify(tcp(7443, seq, rest[:n])); got != TLS {
					t.Fatalf("mss %d: %s (%s)", mss, got, why)
				}
			}
			seq, rest = seq+uint32(n), rest[n:]
		}
		if got, _ := cl.Classify(tcp(7443, seq, []byte("clear text between records"))); got != Clear {
			t.Errorf("mss %d: text where a record should begin: %s", mss, got)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add(udp(51820, wg(4, 100)))
	f.Add(tcp(7443, 5, tlsRecord(20)))
	f.Fuzz(func(t *testing.T, b []byte) {
		cl := Classifier{Ports: ports}
		for range 2 {
			cl.Classify(b)
		}
	})
}
