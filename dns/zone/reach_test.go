package zone

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// documentation is where the forwarders of tests are.
var documentation = Reach{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}

func TestReach(t *testing.T) {
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, p := range list {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	mesh := prefixes("fd12:3456::/32", "10.99.0.11/32", "198.51.100.9/32", "2a00::11/128", "9.9.9.10/32")
	node := Reach{Refuse: mesh}
	lax := Reach{Refuse: mesh, Allow: prefixes("0.0.0.0/0", "::/0")}
	some := Reach{Refuse: mesh, Allow: prefixes("10.99.0.0/24", "149.112.112.0/24", "fd99::/16")}
	own := []netip.Addr{
		netip.MustParseAddr("10.99.0.10"), netip.MustParseAddr("8.8.4.4"), netip.MustParseAddr("::ffff:10.99.0.77"),
		netip.MustParseAddr("2a00::10"), netip.MustParseAddr("fe80::1%eth0"),
	}
	const host, ours, internet, port = "not one of another host", "this node or of the mesh", "not of the Internet", "port is not"
	for _, c := range []struct {
		reach     Reach
		forwarder string
		want      string // "" is allowed
	}{
		{node, "tls://9.9.9.9", ""}, {node, "9.9.9.9", ""}, {node, "tls://[2620:fe::fe]", ""}, {Reach{}, "tls://9.9.9.9:853", ""},
		{node, "tls://9.9.9.9:443", port}, {node, "tls://9.9.9.9:53", port}, {node, "9.9.9.9:853", port}, {node, "9.9.9.9:22", port},
		{some, "tls://149.112.112.112:443", ""}, {some, "149.112.112.112:5353", ""}, {lax, "9.9.9.9:5353", ""},

		{node, "10.1.2.3", internet}, {node, "tls://192.168.1.1", internet}, {node, "172.16.0.53", internet},
		{node, "100.64.0.1", internet}, {node, "192.0.2.1", internet}, {node, "tls://fd99::1", internet},
		{node, "tls://2002:a63:a::1", internet}, {node, "tls://64:ff9b::a63:a", internet}, {node, "::ffff:10.1.2.3", internet},
		{some, "10.99.0.53:9999", ""}, {some, "tls://fd99::1", ""}, {some, "10.99.1.53", internet}, {lax, "10.1.2.3:1", ""},

		{node, "10.99.0.10", ours}, {lax, "10.99.0.10:22", ours}, {some, "tls://10.99.0.11", ours}, {lax, "10.99.0.77", ours},
		{lax, "8.8.4.4", ours}, {node, "9.9.9.10", ours}, {lax, "198.51.100.9", ours}, {lax, "::ffff:10.99.0.11", ours},
		{lax, "tls://2a00::10", ours}, {lax, "tls://2a00::11", ours}, {lax, "tls://fd12:3456::1", ours}, {lax, "tls://2a00::12", ""},

		{lax, "127.0.0.1", host}, {lax, "tls://[::1]:2379", host}, {lax, "169.254.169.254", host}, {lax, "169.254.169.253", host},
		{lax, "tls://fe80::1", host}, {lax, "0.0.0.0", host}, {lax, "tls://[::]:853", host}, {lax, "224.0.0.251", host},
		{lax, "tls://ff02::fb", host}, {lax, "255.255.255.255", host}, {lax, "::ffff:127.0.0.1", host}, {lax, "::ffff:169.254.169.254", host},

		{node, "10.5.3.53", ""}, {node, "tls://10.5.3.53:1", ""}, // inside the VPC
	} {
		f, err := ParseForwarder(c.forwarder, true, netip.MustParsePrefix("10.5.0.0/16"))
		if err != nil {
			t.Fatal(err)
		}
		switch err := c.reach.Check(f, own); {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.forwarder, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.forwarder, err, c.want)
		}
	}
}

// A forwarder out of reach is the problem of its VPC alone.
func TestReachLeavesOthersAlone(t *testing.T) {
	vpcs := testVPCs()
	vpcs[0].Forwarders = []string{"tls://10.99.0.10:9999", "tls://9.9.9.9", "127.0.0.1"}
	vpcs[1].Forwarders = []string{"tls://1.1.1.1"}
	vpcs[0].ID = "vpc-8"
	z, err := New(testNames(), vpcs, Reach{})
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, want := range []string{`vpc-8: forwarder "tls://10.99.0.10:9999": address is not of the Internet`, `vpc-8: forwarder "127.0.0.1`} {
		if len(lines) != 2 || !strings.HasPrefix(lines[i], want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	if many, ok := err.(interface{ Unwrap() []error }); !ok || len(many.Unwrap()) != 2 {
		t.Errorf("%q is not two errors", err)
	}
	for vpc, want := range map[uint32]string{pay: "tls://9.9.9.9:853", shop: "tls://1.1.1.1:853"} {
		if got := z.Forwarders(vpc); len(got) != 1 || got[0].String() != want {
			t.Errorf("vpc %d asks %v, want %s", vpc, got, want)
		}
	}
	if !slices.Equal(z.Names(), testZone(t).Names()) {
		t.Error("names differ")
	}
}
