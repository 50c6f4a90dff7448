package api

import (
	"net/netip"
	"testing"
)

func TestPublicAddresses(t *testing.T) {
	for text, want := range map[string]bool{
		"9.9.9.9": true, "1.1.1.1": true, "2620:fe::fe": true, "2001:4860:4860::8888": true, "::ffff:9.9.9.9": true, "172.32.0.1": true,
		"100.128.0.1": true, "192.0.1.1": true,
		"0.0.0.0": false, "0.1.2.3": false, "10.99.0.10": false, "127.0.0.53": false, "100.64.0.1": false, "100.127.255.255": false,
		"169.254.169.254": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "192.0.0.8": false, "192.0.2.1": false,
		"192.88.99.1": false, "198.18.0.1": false, "198.19.255.255": false, "198.51.100.1": false, "203.0.113.9": false, "224.0.0.1": false,
		"239.1.2.3": false, "240.0.0.1": false, "255.255.255.255": false, "::": false, "::1": false, "::ffff:10.0.0.1": false,
		"::10.0.0.1": false, "64:ff9b::a63:a": false, "64:ff9b:1::1": false, "100::1": false, "fc00::1": false, "fd12:3456::1": false,
		"fe80::1": false, "fec0::1": false, "ff02::1": false, "2001::1": false, "2001:2::1": false, "2001:db8::1": false,
		"2002:a63:a::1": false, "3fff::1": false, "4000::1": false, "2606:4700::1111%eth0": false,
	} {
		if got := PublicAddress(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: public %v", text, got)
		}
	}
}
