package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"unicode"
)

// wellSaid: a refusal has a field and a remedy, and is one line of printable text, whatever was refused.
func wellSaid(t *testing.T, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code == "" || e.Field == "" || e.Message == "" {
		t.Fatalf("not an error of ours that names a field: %#v", err)
	}
	if s := e.Error(); len(s) > 2000 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Fatalf("not one line: %d bytes, %.300q", len(s), s)
	}
}

// FuzzParseID: an id has one kind, is that kind's prefix and 17 digits, and no name.
func FuzzParseID(f *testing.F) {
	for _, k := range Kinds {
		f.Add(MakeID(k.Prefix(), [9]byte{1, 2, 3}))
	}
	f.Add("123456789012")
	f.Add("vpce-svc-0000000000000000A")
	f.Fuzz(func(t *testing.T, id string) {
		kind, err := ParseID(id)
		if err != nil {
			wellSaid(t, err)
			return
		}
		if !strings.HasPrefix(id, kind.Prefix()) || kind != KindAccount && len(id) != len(kind.Prefix())+idHexLen ||
			strings.ToLower(id) != id {
			t.Errorf("%q is taken for an id of kind %s", id, kind)
		}
		for _, other := range Kinds {
			if other != kind && other.Prefix() != "" && IsID(other.Prefix(), id) {
				t.Errorf("%q is of kind %s and %s", id, kind, other)
			}
		}
		if ValidateName("name", id) == nil {
			t.Errorf("the id %q may be a name", id)
		}
	})
}

// FuzzValidate: the validators of text accept only what stays the same when it is read, lowered, or written in a log.
func FuzzValidate(f *testing.F) {
	for _, s := range []string{"ledger", "ledger.pay.internal", "*.api.example.org", "tls://192.0.2.1:853", "192.0.2.7:51820",
		"[2001:db8::7]:51820",
		"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=", "caf\u00e9", "a\u202eb", "\x00", "-a", "::ffff:192.0.2.7", strings.Repeat("a.", 127)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		plain := func(what string, e *Error) bool {
			if e != nil {
				wellSaid(t, e)
				return false
			}
			if s != strings.ToLower(s) || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) || len(s) > 255 {
				t.Errorf("%q is a %s", s, what)
			}
			return true
		}
		if plain("name", ValidateName("name", s)) && !plain("domain", ValidateDomain("domain", s+".example", 2)) {
			t.Errorf("the name %q is no label of a domain", s)
		}
		if plain("domain", ValidateDomain("domain", s, 1)) && !WithinDomain("x."+s, s) {
			t.Errorf("x.%s is not within it", s)
		}
		plain("private name", ValidatePrivateDNSName("privateDnsName", s))
		if e := ValidateForwarder(s, true); e != nil {
			wellSaid(t, e)
		} else if _, err := netip.ParseAddrPort(withoutScheme(s)); err != nil {
			if _, err := netip.ParseAddr(withoutScheme(s)); err != nil {
				t.Errorf("the forwarder %q has no address", s)
			}
		}
		if e := ValidateUnderlay("underlayAddresses", s); e != nil {
			wellSaid(t, e)
		} else if a, err := netip.ParseAddrPort(s); err != nil || !a.Addr().IsGlobalUnicast() || a.Port() == 0 {
			t.Errorf("%q is an underlay address", s)
		}
		if e := ValidatePublicKey("publicKey", s); e != nil {
			wellSaid(t, e)
		}
		if e := validateTags(map[string]string{s: s}); e != nil {
			wellSaid(t, e)
		} else if strings.ContainsFunc(s, unicode.IsControl) {
			t.Errorf("%q is a tag", s)
		}
	})
}

// FuzzParseOverlay: an address that is taken apart is put together the same, and lies in its mesh's prefix.
func FuzzParseOverlay(f *testing.F) {
	for _, o := range []Overlay{{Mesh: 0xffffff, VPC: 1, Host: 0x0a000105, Tag: TagFamilyIPv4 | 7}, {Mesh: 1, Host: 2}} {
		b := o.Addr().As16()
		f.Add(b[:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		o, ok := ParseOverlay(a)
		if ok != (a.Is6() && o.Addr() == a) {
			t.Errorf("%s: %+v, canonical %t", a, o, ok)
		}
		if ok && !MeshPrefix(o.Mesh).Contains(a) {
			t.Errorf("%s is not in the prefix of its mesh", a)
		}
		if ok && !OverlayPrefix(o.Mesh, o.VPC, netip.PrefixFrom(o.HostAddr(), 32)).Contains(a) {
			t.Errorf("%s is not in the prefix of its host", a)
		}
	})
}

// FuzzCheckJSON: what passes is JSON that reads the same when names are matched in any order and its text is written anew.
func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `{"a":{"a":[{"b":null}]}}`, `{"a":1,"\u0061":2}`, "[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]",
		"\ufeff{}", "{\"a\":\"\xff\"}", `{}{}`, ``, `"x"`, `[{"a":1},{"a":1}]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if e := CheckJSON(data); e != nil {
			wellSaid(t, e)
			return
		}
		var v any
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%q is accepted: %v", data, err)
		}
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if e := CheckJSON(again); e != nil {
			t.Errorf("%q, written anew: %v", again, e)
		}
		// Each name costs a byte and two quotes or more in both texts: one that stood twice would be gone.
		if names(data) != names(again) {
			t.Errorf("%q has %d names, %q has %d", data, names(data), again, names(again))
		}
	})
}

// names counts the colons outside strings: one per name.
func names(data []byte) (n int) {
	inside := false
	for i := 0; i < len(data); i++ {
		switch {
		case inside && data[i] == '\\':
			i++
		case data[i] == '"':
			inside = !inside
		case !inside && data[i] == ':':
			n++
		}
	}
	return n
}

// FuzzResources: a resource that is read and valid is written and read the same; what is not valid says which field.
func FuzzResources(f *testing.F) {
	f.Add(uint8(0), []byte(`{"id":"123456789012","name":"shop","domains":["shop.internal"]}`))
	f.Add(uint8(1), []byte(`{"id":"vpc-00000000000000001","account":"123456789012","cidr":"10.0.0.0/16","forwarders":["tls://192.0.2.1"]}`))
	f.Add(uint8(4), []byte(`{"id":"sg-00000000000000001","account":"123456789012","vpcId":"vpc-00000000000000001","name":"web","ingress":`+
		`[{"id":"sgr-00000000000000001","protocol":"tcp","fromPort":1,"toPort":2,"cidr":"10.0.0.0/8"}]}`))
	f.Add(uint8(10), []byte(`{"id":"node-00000000000000001","name":"host-a",`+
		`"publicKey":"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=","underlayAddresses":["192.0.2.7:51820"]}`))
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		type resource interface {
			Resource
			Validate() error
		}
		fresh := []func() resource{
			func() resource { return new(Account) }, func() resource { return new(VPC) }, func() resource { return new(Subnet) },
			func() resource { return new(ENI) }, func() resource { return new(SecurityGroup) },
			func() resource { return new(TargetGroup) },
			func() resource { return new(LoadBalancer) }, func() resource { return new(Service) },
			func() resource { return new(Endpoint) },
			func() resource { return new(Connection) }, func() resource { return new(Node) }, func() resource { return new(JoinToken) },
			func() resource { return new(APIKey) },
		}
		one, two := fresh[int(kind)%len(fresh)](), fresh[int(kind)%len(fresh)]()
		if json.Unmarshal(data, one) != nil {
			return
		}
		if err := one.Validate(); err != nil {
			wellSaid(t, err)
			return
		}
		if k, err := ParseID(one.GetMeta().ID); err != nil || k != one.Kind() {
			t.Errorf("valid with the id %q", one.GetMeta().ID)
		}
		first, err := json.Marshal(one)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(first, two); err != nil {
			t.Fatal(err)
		}
		second, err := json.Marshal(two)
		if err != nil || !bytes.Equal(first, second) || two.Validate() != nil {
			t.Errorf("%s, read again: %s (%v, %v)", first, second, err, two.Validate())
		}
	})
}

func withoutScheme(forwarder string) string {
	if rest, tls := strings.CutPrefix(forwarder, "tls://"); tls {
		return rest
	}
	return strings.TrimPrefix(forwarder, "tcp://")
}
