package api

import (
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
)

func TestPackRecord(t *testing.T) {
	long := strings.Repeat("a", 300)
	for _, c := range []struct{ kind, value, want string }{
		{"A", "10.0.1.5", "0a000105"},
		{"AAAA", "2001:db8::5", "20010db8000000000000000000000005"},
		{"CNAME", "Web.example.com.", "03776562076578616d706c6503636f6d00"},
		{"MX", "10 m.x", "000a016d017800"},
		{"MX", "0 .", "000000"},
		{"TXT", "", "00"},
		{"TXT", "a b", "03612062"},
		{"TXT", `"a b" c`, "036120620163"},
		{"TXT", `"\"\065\\"`, "0322415c"},
		{"TXT", long, "ff" + strings.Repeat("61", 255) + "2d" + strings.Repeat("61", 45)},
		{"SRV", "1 2 5060 s.x", "0001000213c40173017800"},
		{"CAA", `0 issue "ca.x; a=b"`, "00056973737565" + hex.EncodeToString([]byte("ca.x; a=b"))},
		{"HTTPS", "0 other.x", "0000056f74686572017800"},
		{"HTTPS", "1 . port=8443 alpn=h2,h3", "0001" + "00" + "0001" + "0006" + "026832026833" + "0003" + "0002" + "20fb"},
		{"SVCB", "1 . mandatory=port,alpn alpn=h2 port=1", "0001" + "00" + "0000" + "0004" + "00010003" +
			"0001" + "0003" + "026832" + "0003" + "0002" + "0001"},
		{"SVCB", `1 . ipv4hint=10.0.0.1,10.0.0.2 key9="x y"`, "0001" + "00" + "0004" + "0008" + "0a0000010a000002" + "0009" + "0003" + "782079"},
	} {
		got, err := PackRecord(c.kind, c.value)
		if err != nil || hex.EncodeToString(got) != c.want {
			t.Errorf("%s %s: %x, %v, want %s", c.kind, Shortened(c.value), got, err, c.want)
		}
	}
}

func TestPackRecordRefuses(t *testing.T) {
	for _, c := range []struct{ kind, value string }{
		{"A", "2001:db8::1"}, {"A", "10.0.1"}, {"AAAA", "10.0.1.5"}, {"AAAA", "::ffff:10.0.1.5"}, {"AAAA", "fe80::1%eth0"},
		{"CNAME", ""}, {"CNAME", "a b"}, {"CNAME", "."}, {"CNAME", "*.x"}, {"CNAME", "a..b"}, {"CNAME", strings.Repeat("a", 64) + ".x"},
		{"CNAME", strings.Repeat("a.", 127) + "a"}, {"CNAME", "ä.x"},
		{"MX", "m.x"}, {"MX", "65536 m.x"}, {"MX", "1 m.x more"}, {"SRV", "1 2 m.x"}, {"SRV", "1 2 -3 m.x"},
		{"TXT", `"open`}, {"TXT", `"\999"`}, {"TXT", `"\`}, {"TXT", `"` + strings.Repeat("a", 256) + `"`},
		{"CAA", "0 issue"}, {"CAA", "256 issue x"}, {"CAA", "0 is-sue x"},
		{"HTTPS", "1"}, {"HTTPS", "0 . alpn=h2"}, {"HTTPS", "1 . alpn="}, {"HTTPS", "1 . alpn=h2 alpn=h3"}, {"HTTPS", "1 . what=1"},
		{"HTTPS", "1 . key65535=x"}, {"HTTPS", "1 . port=x"}, {"HTTPS", "1 . ech=!"}, {"HTTPS", "1 . no-default-alpn"},
		{"HTTPS", "1 . mandatory=port"}, {"HTTPS", "1 . mandatory=mandatory"}, {"HTTPS", "1 . ipv4hint=::1"},
		{"NS", "ns.x"}, {"", ""},
	} {
		if got, err := PackRecord(c.kind, c.value); err == nil {
			t.Errorf("%s %q: taken, as %x", c.kind, Shortened(c.value), got)
		}
	}
}

func TestRecordFormsArePacked(t *testing.T) {
	for kind := range RecordTypes {
		if _, err := PackRecord(kind, recordForms[kind]); err != nil {
			t.Errorf("%s: the form that errors tell of, %q: %v", kind, recordForms[kind], err)
		}
	}
}

// What counts in limits is what a view has of a record set, whatever JSON writes for its values, and not much more.
func TestSizeOfRecordSets(t *testing.T) {
	for _, value := range []string{"", "plain text", strings.Repeat("<", 1000), strings.Repeat(`a&b>"c"\`, 300), strings.Repeat("ü€", 500)} {
		for n := range 4 {
			s := RecordSet{Name: "www.corp.internal", Type: "TXT", TTLSeconds: MaxRecordTTL}
			for range n {
				s.Values = append(s.Values, value)
			}
			text, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if size := s.Size(); size <= len(text) || size > len(text)+20 || s.TextSize() >= len(text) {
				t.Errorf("%d times %s: %d bytes, texts %d; its JSON has %d", n, Shortened(value), size, s.TextSize(), len(text))
			}
		}
	}
}
