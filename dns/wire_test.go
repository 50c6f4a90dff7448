package dns

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"
	"pgregory.net/rapid"
)

// drawName draws names in wire form as the library reads them, with labels of any bytes, often of few so that they share suffixes.
func drawName(t *rapid.T, what string) string {
	var wire []byte
	for _, label := range rapid.SliceOfN(rapid.OneOf(
		rapid.SampledFrom([]string{"a", "A", "b", "example", "eXample", "1", `\`, ".", "a.b", "0"}).AsAny(),
		rapid.SliceOfN(rapid.Byte(), 1, 63).AsAny()), 0, 5).Draw(t, what) {
		text, ok := label.(string)
		if !ok {
			text = string(label.([]byte))
		}
		if len(wire)+1+len(text) < maxWireName {
			wire = append(append(wire, byte(len(text))), text...)
		}
	}
	name, _, err := miekg.UnpackDomainName(append(wire, 0), 0)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// Names are read and written as by the library, whatever bytes they have and whatever the question was.
func TestNamesAreTheLibrarys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		question := ask(drawName(t, "question"), miekg.TypeA)
		data, err := question.Pack()
		if err != nil {
			t.Fatal(err)
		}
		r := request{packet: packet{data: data, tcp: true}, st: offlineState}
		if rcode := r.parse(); rcode != miekg.RcodeSuccess || r.q != question.Question[0] {
			t.Fatalf("%v is read as %v, rcode %d", question.Question[0], r.q, rcode)
		}
		var e encoder
		e.begin(&r, nil)
		var want []miekg.RR
		for _, name := range rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string { return drawName(t, "owner") }), 1, 4).Draw(t, "owners") {
			if rapid.Bool().Draw(t, "below") {
				if below := name + r.q.Name; name != "." && r.q.Name != "." && len(below) < 200 {
					name = below
				}
			}
			for range rapid.IntRange(1, 2).Draw(t, "times") {
				start, at := e.record(name, miekg.TypePTR, 7)
				e.name(name)
				e.finish(sectionAnswer, start, at)
				want = append(want, &miekg.PTR{Hdr: header(name, miekg.TypePTR, 7), Ptr: name})
			}
		}
		got := new(miekg.Msg)
		if err := got.Unpack(e.end(&r, miekg.RcodeSuccess, 0)); err != nil {
			t.Fatalf("%x: %v", e.out, err)
		}
		same := func(a, b miekg.RR) bool { return strings.EqualFold(a.String(), b.String()) } // compressed names are in its case
		if !slices.EqualFunc(got.Answer, want, same) {
			t.Fatalf("got\n%v\nwant\n%v", got.Answer, want)
		}
	})
}

var offlineState = &state{}

// A reply that is too long for a datagram has whole records only, as many as fit.
func TestRecordsThatDoNotFit(t *testing.T) {
	data, err := withOPT(ask("a.example.", miekg.TypeTXT), 512, false).Pack()
	if err != nil {
		t.Fatal(err)
	}
	for size := range 400 {
		r := request{packet: packet{data: data}, st: offlineState}
		if r.parse() != miekg.RcodeSuccess {
			t.Fatal("not a query")
		}
		var e encoder
		e.begin(&r, nil)
		text := bytes.Repeat([]byte{'x'}, size%200)
		for range 1 + size/4 {
			start, at := e.record("other.name.", miekg.TypeTXT, 7)
			e.out = append(append(e.out, byte(len(text))), text...)
			e.finish(sectionAnswer, start, at)
		}
		out := e.end(&r, miekg.RcodeSuccess, 0)
		got := new(miekg.Msg)
		if err := got.Unpack(out); err != nil || len(out) > 512 || got.IsEdns0() == nil {
			t.Fatalf("size %d: %d bytes, %v", size, len(out), err)
		}
		whole := len(got.Answer) == 1+size/4
		if got.Truncated == whole || !whole && len(out)+len(text)+24 < 512 {
			t.Fatalf("size %d: %d of %d records in %d bytes, truncated %v", size, len(got.Answer), 1+size/4, len(out), got.Truncated)
		}
	}
}
