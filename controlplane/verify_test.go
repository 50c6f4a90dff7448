package controlplane

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// answerTXT is what a resolver answers to a query, nil when it is none.
func answerTXT(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.Additionals = true, nil
	switch q.Name.String() {
	case "_x.example.com.":
		m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body: &dnsmessage.TXTResource{TXT: []string{"vpce:", "abc"}}}}
	case "_broken.example.com.":
		m.RCode = dnsmessage.RCodeServerFailure
	default:
		m.RCode = dnsmessage.RCodeNameError
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// datagrams answers over UDP until the connection is closed.
func datagrams(conn net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if out := answerTXT(buf[:n]); out != nil {
			conn.WriteTo(out, from) //nolint:errcheck // who asked asks again
		}
	}
}

// streams answers over TCP until the listener is closed.
func streams(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		var size uint16
		if binary.Read(conn, binary.BigEndian, &size) == nil {
			query := make([]byte, size)
			if _, err := io.ReadFull(conn, query); err == nil {
				out := answerTXT(query)
				conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)) //nolint:errcheck // likewise
			}
		}
		conn.Close()
	}
}

// The resolver that is named is asked as it is named, and its answer told from its silence.
func TestLookupTXTAsksTheResolver(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go datagrams(conn)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go streams(listener)
	for _, server := range []string{conn.LocalAddr().String(), "tcp://" + listener.Addr().String()} {
		lookup, err := LookupTXTAt(server)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if got, err := lookup(ctx, "_x.example.com"); err != nil || !slices.Equal(got, []string{"vpce:abc"}) {
			t.Errorf("%s: %q, %v", server, got, err)
		}
		var missing *net.DNSError
		if _, err := lookup(ctx, "_none.example.com"); !errors.As(err, &missing) || !missing.IsNotFound {
			t.Errorf("%s: a name that does not exist: %v", server, err)
		}
		if _, err := lookup(ctx, "_broken.example.com"); !errors.As(err, &missing) || missing.IsNotFound {
			t.Errorf("%s: a resolver that fails: %v", server, err)
		}
	}
}

func TestLookupTXTAtTellsResolversFromOthers(t *testing.T) {
	for _, good := range []string{"192.0.2.1", "192.0.2.1:5353", "tcp://192.0.2.1", "tcp://[2001:db8::1]:53", "tls://2001:db8::1"} {
		if _, err := LookupTXTAt(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "dns.example.com", "tcp://", "tcp://dns.example.com", "tls://tcp://192.0.2.1", "tcp://tcp://192.0.2.1",
		"udp://192.0.2.1", "192.0.2.1:0", "tcp://192.0.2.1:0"} {
		if _, err := LookupTXTAt(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
