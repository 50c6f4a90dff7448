package dns

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"
)

// A forwarder's answer whose names lead round or ahead is none, wherever they stand.
func TestAnswersWithLoops(t *testing.T) {
	query := ask("www.example.org.", miekg.TypeA)
	query.Id = 7
	question, err := query.Pack()
	if err != nil {
		t.Fatal(err)
	}
	record := func(owner, kind, data string) string {
		text := strings.ReplaceAll(data, " ", "")
		length := string(binary.BigEndian.AppendUint16(nil, uint16(len(text)/2)))
		return string(unhex(t, owner)) + string(unhex(t, kind+" 0001 0000003c")) + length + string(unhex(t, text))
	}
	const at = 0x21 // where the first record begins
	if len(question) != at {
		t.Fatalf("the question ends at %d", len(question))
	}
	for name, c := range map[string]struct {
		records string
		ok      bool
	}{
		"an address":                         {record("c00c", "0001", "c0000201"), true},
		"an alias by a pointer back":         {record("c00c", "0005", "0161 c010"), true},
		"owner that points at itself":        {record("c021", "0001", "c0000201"), false},
		"owner that points ahead":            {record("c030", "0001", "c0000201"), false},
		"owner, a label and back to it":      {record("0161 c021", "0001", "c0000201"), false},
		"alias that points at itself":        {record("c00c", "0005", "c02d"), false},
		"alias, a label and back to it":      {record("c00c", "0005", "0161 c02d"), false},
		"two names that point at each other": {record("c00c", "0005", "c02f") + record("c02d", "0001", "c0000201"), false},
		"mail exchange that points ahead":    {record("c00c", "000f", "0001 c0ff"), false},
		"alias longer than a name may be":    {record("c00c", "0005", strings.Repeat("3f"+strings.Repeat("61", 63), 4)+"00"), false},
		"alias behind the end of its data":   {record("c00c", "0005", "0361"), false},
	} {
		data := append(bytes.Clone(question), c.records...)
		data[2] |= 0x80
		binary.BigEndian.PutUint16(data[6:], 1)
		if strings.HasPrefix(name, "two") {
			binary.BigEndian.PutUint16(data[6:], 2)
		}
		m, err := verify(data, query)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}

// For how long "no such name" and "no data" are kept: what the SOA record says, its TTL and its last field, and never longer than five
// minutes; without one not at all.
func TestNegativeTTL(t *testing.T) {
	for _, c := range []struct {
		rcode   int
		records []string
		want    uint32
	}{
		{miekg.RcodeNameError, []string{"com. 900 IN SOA a. b. 1 2 3 4 60"}, 60},
		{miekg.RcodeNameError, []string{"com. 30 IN SOA a. b. 1 2 3 4 60"}, 30},
		{miekg.RcodeNameError, []string{"com. 9000 IN SOA a. b. 1 2 3 4 9000"}, maxNegative},
		{miekg.RcodeNameError, []string{"com. 60 IN NS a."}, 0},
		{miekg.RcodeNameError, nil, 0},
		{miekg.RcodeSuccess, []string{"com. 900 IN SOA a. b. 1 2 3 4 60"}, 60},
		{miekg.RcodeSuccess, nil, 0},
	} {
		m := new(miekg.Msg).SetRcode(ask("x.com.", miekg.TypeA), c.rcode)
		for _, text := range c.records {
			m.Ns = append(m.Ns, rr(text))
		}
		if got := answerTTL(m); got != c.want {
			t.Errorf("%s %v: %d s, want %d", RCODEString(c.rcode), c.records, got, c.want)
		}
	}
}
