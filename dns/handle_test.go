package dns

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

// offline is a server without sockets; messages go straight to handle.
func offline(t testing.TB) *Server {
	t.Helper()
	s := New(Config{RateLimit: -1})
	s.Set(testZone(t, "tls://192.0.2.1"))
	return s
}

func (s *Server) handleAs(vpc uint32, data []byte, tcp bool) ([]byte, waiting) {
	p := packet{client: client{vpc, clientAddr}, arrived: time.Now(), data: data, tcp: tcp}
	return s.handle(s.state.Load(), p, make([]byte, maxQuery))
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// question of ledger.pay.internal. A IN
const (
	ledgerName = "066c6564676572 03706179 08696e7465726e616c 00"
	inA        = " 0001 0001"
	opt        = " 00 0029 04d0 00000000 0000"
)

// Every kind of message that a hostile workload may send. "" means no answer; else the header's flags and rcode, as
// sent.
func TestMalformed(t *testing.T) {
	s := offline(t)
	label64 := "40" + strings.Repeat("61", 64) + "00"
	name256 := strings.Repeat("3f"+strings.Repeat("61", 63), 4) + "00"
	for _, c := range []struct {
		name, data, want string
	}{
		{"nothing", "", ""},
		{"11 bytes", "0001 0100 0001 0000 0000 00", ""},
		{"a response", "0001 8100 0001 0000 0000 0000 " + ledgerName + inA, ""},
		{"header only, no question", "0001 0100 0000 0000 0000 0000", "8101"},
		{"header only, one promised", "0001 0100 0001 0000 0000 0000", "8101"},
		{"two questions", "0001 0100 0002 0000 0000 0000 " + ledgerName + inA + ledgerName + inA, "8101"},
		{"65535 questions", "0001 0100 ffff 0000 0000 0000 " + ledgerName + inA, "8101"},
		{"65535 answers", "0001 0100 0001 ffff 0000 0000 " + ledgerName + inA, "8101"},
		{"65535 additional", "0001 0100 0001 0000 0000 ffff " + ledgerName + inA, "8101"},
		{"authority in a plain query", "0001 0100 0001 0000 0001 0000 " + ledgerName + inA +
			"00 0001 0001 00000000 0004 01020304", "8101"},
		{"pointer to itself", "0001 0100 0001 0000 0000 0000 c00c" + inA, "8101"},
		{"pointer ahead", "0001 0100 0001 0000 0000 0000 c012" + inA + "c00c", "8101"},
		{"pointer past the end", "0001 0100 0001 0000 0000 0000 ffff" + inA, "8101"},
		{"label of 64", "0001 0100 0001 0000 0000 0000 " + label64 + inA, "8101"},
		{"name of 257", "0001 0100 0001 0000 0000 0000 " + name256 + inA, "8101"},
		{"cut in the name", "0001 0100 0001 0000 0000 0000 066c6564", "8101"},
		{"cut in the type", "0001 0100 0001 0000 0000 0000 " + ledgerName + "00", "8101"},
		{"the root", "0001 0100 0001 0000 0000 0000 00" + inA, "8103"},
		{"zero byte and dot in a label", "0001 0100 0001 0000 0000 0000 0461002e62" + ledgerName + inA, "8503"},
		{"type 0", "0001 0100 0001 0000 0000 0000 " + ledgerName + " 0000 0001", "8105"},
		{"type OPT", "0001 0100 0001 0000 0000 0000 " + ledgerName + " 0029 0001", "8105"},
		{"AXFR over UDP", "0001 0100 0001 0000 0000 0000 " + ledgerName + " 00fc 0001", "8105"},
		{"IXFR over UDP", "0001 0100 0001 0000 0000 0000 " + ledgerName + " 00fb 0001", "8105"},
		{"class CH", "0001 0100 0001 0000 0000 0000 " + ledgerName + " 0001 0003", "8105"},
		{"class ANY", "0001 0100 0001 0000 0000 0000 " + ledgerName + " 0001 00ff", "8105"},
		{"unknown type", "0001 0100 0001 0000 0000 0000 " + ledgerName + " fff0 0001", "8500"},
		{"two OPT", "0001 0100 0001 0000 0000 0002 " + ledgerName + inA + opt + opt, "8101"},
		{"OPT with a name", "0001 0100 0001 0000 0000 0001 " + ledgerName + inA + " 0161" + opt, "8101"},
		{"OPT whose name points at itself", "0001 0100 0001 0000 0000 0001 " + ledgerName + inA + " c025 0029 04d0 00000000 0000", "8101"},
		{"OPT whose name points ahead", "0001 0100 0001 0000 0000 0001 " + ledgerName + inA + " c030 0029 04d0 00000000 0000", "8101"},
		{"OPT whose name points back", "0001 0100 0001 0000 0000 0001 " + ledgerName + inA + " c00c 0029 04d0 00000000 0000", "8101"},
		{"TSIG whose name is a label and points at it", "0001 0100 0001 0000 0000 0001 " + ledgerName + inA +
			" 0161 c025 00fa 00ff 00000000 0000", "8101"},
		{"TSIG whose name points back", "0001 0100 0001 0000 0000 0001 " + ledgerName + inA + " c00c 00fa 00ff 00000000 0000", "8109"},
		{"label of the kind 01", "0001 0100 0001 0000 0000 0000 4161" + inA, "8101"},
		{"label of the kind 10", "0001 0100 0001 0000 0000 0000 8161" + inA, "8101"},
		{"OPT cut", "0001 0100 0001 0000 0000 0001 " + ledgerName + inA + " 00 0029 04d0 00", "8101"},
		{"OPT, size 0", "0001 0100 0001 0000 0000 0001 " + ledgerName + inA + " 00 0029 0000 00000000 0000", "8500"},
		{"OPT, short cookie", "0001 0100 0001 0000 0000 0001 " + ledgerName + inA +
			" 00 0029 04d0 00000000 0005 000a 0001 ff", "8500"},
		{"client subnet", "0001 0100 0001 0000 0000 0001 " + ledgerName + inA +
			" 00 0029 04d0 00000000 000b 0008 0007 0001 18 00 0a0000", "8500"},
		{"TSIG", "0001 0100 0001 0000 0000 0001 " + ledgerName + inA +
			" 0161 00 00fa 00ff 00000000 0013 0161 00 000000000000 0000 0000 0001 0000 0000", "8109"},
		{"a good query", "0001 0100 0001 0000 0000 0000 " + ledgerName + inA, "8500"},
		{"without recursion", "0001 0000 0001 0000 0000 0000 " + ledgerName + inA, "8400"},
	} {
		got, wait := s.handleAs(shop, unhex(t, c.data), false)
		if wait != nil {
			t.Errorf("%s: forwarded", c.name)
		}
		flags := ""
		if got != nil {
			flags = hex.EncodeToString(got[2:4])
		}
		if flags != c.want {
			t.Errorf("%s: answer %q (%x), want %q", c.name, flags, got, c.want)
		}
	}
}

// Opcodes other than QUERY, with any rest of the header.
func TestOpcodes(t *testing.T) {
	s := offline(t)
	for opcode := 1; opcode < 16; opcode++ {
		data := unhex(t, "0001 0100 0001 0000 0000 0000 "+ledgerName+inA)
		data[2] |= byte(opcode << 3)
		got, _ := s.handleAs(shop, data, false)
		if len(got) != headerSize || got[2] != 0x81|byte(opcode<<3) || got[3] != miekg.RcodeNotImplemented {
			t.Errorf("opcode %d: %x", opcode, got)
		}
	}
}

// What is refused or wrong must not be a means of amplification.
func TestErrorsAreShort(t *testing.T) {
	s := offline(t)
	for _, qtype := range []uint16{miekg.TypeAXFR, miekg.TypeANY, miekg.TypeNone, miekg.TypeTXT, miekg.TypeDNSKEY} {
		data, err := ask("ledger.pay.internal.", qtype).Pack()
		if err != nil {
			t.Fatal(err)
		}
		got, _ := s.handleAs(shop, data, false)
		if len(got) > len(data)+70 { // an SOA record at most
			t.Errorf("%s: %d bytes for %d", TypeString(qtype), len(got), len(data))
		}
	}
}
