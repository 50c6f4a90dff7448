package api

import (
	"encoding/base64"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

const (
	hex17   = "0a1b2c3d4e5f60718"
	testAcc = "123456789012"
)

func meta(k Kind) Meta { return Meta{ID: k.Prefix() + hex17, Account: testAcc, Name: "x"} }

func goodVPC() *VPC { return &VPC{Meta: meta(KindVPC), CIDR: netip.MustParsePrefix("10.0.0.0/16")} }

// wantCode checks that err is an *Error of that code with a message, or nil where code is "".
func wantCode(t *testing.T, name string, err error, code ErrorCode) {
	t.Helper()
	if code == "" {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return
	}
	if !errors.Is(err, &Error{Code: code}) {
		t.Errorf("%s: got %v, want %s", name, err, code)
	}
}

func TestVPCRanges(t *testing.T) {
	for cidr, code := range map[string]ErrorCode{
		"10.0.0.0/16": "", "10.255.255.240/28": "", "172.16.0.0/16": "", "172.31.0.0/16": "", "192.168.0.0/16": "",
		"100.64.0.0/16": "", "100.127.0.0/16": "",
		"10.0.0.0/15": CodeVPCRange, "10.0.0.0/29": CodeVPCRange, "10.0.0.1/16": CodeVPCRange, "172.32.0.0/16": CodeVPCRange,
		"192.169.0.0/16": CodeVPCRange, "169.254.0.0/16": CodeVPCRange, "127.0.0.0/16": CodeVPCRange,
		"224.0.0.0/16": CodeVPCRange, "240.0.0.0/16": CodeVPCRange, "0.0.0.0/16": CodeVPCRange, "8.8.8.0/24": CodeVPCRange,
		"100.128.0.0/16": CodeVPCRange, "fd00::/64": CodeVPCRange, "::ffff:10.0.0.0/112": CodeVPCRange,
	} {
		v := goodVPC()
		v.CIDR = netip.MustParsePrefix(cidr)
		wantCode(t, cidr, v.Validate(), code)
	}
	v := goodVPC()
	v.CIDR = netip.Prefix{}
	wantCode(t, "no CIDR", v.Validate(), CodeMissingParameter)
}

func TestNamesAndDomains(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "ledger-1": true, "0": true, strings.Repeat("a", 63): true,
		"": false, "A": false, "-a": false, "a-": false, "a.b": false, "a_b": false, "ä": false, strings.Repeat("a", 64): false,
		"vpc-" + hex17: false, testAcc: false,
	} {
		if got := ValidateName("name", name) == nil; got != ok {
			t.Errorf("ValidateName(%q) = %v", name, got)
		}
	}
	for name, ok := range map[string]bool{
		"ledger.pay.internal": true, "*.pay.internal": true, "xn--bcher-kva.example": true, "a.b": true,
		"pay": false, "*.pay": false, "*": false, "Ledger.pay.internal": false, "a.b.": false, ".a.b": false, "a..b": false,
		"a.*.b": false, "*.*.a.b": false, "bücher.example": false, "1.2.3.4": false, "a_b.c": false,
		strings.Repeat("a.", 127) + "com":                           false,
		"x.vpce.culvert.internal":                                   false,
		"vpce.culvert.internal":                                     false,
		"culvert.internal":                                          false,
		"*.culvert.internal":                                        false,
		"notculvert.internal":                                       true,
		strings.Repeat("a", 64) + ".b":                              false,
		strings.Repeat(strings.Repeat("a", 49)+".", 5) + "internal": false,
	} {
		if got := ValidatePrivateDNSName("n", name) == nil; got != ok {
			t.Errorf("ValidatePrivateDNSName(%q) = %v", name, got)
		}
	}
	for _, c := range []struct {
		name, domain string
		want         bool
	}{
		{"pay.internal", "pay.internal", true}, {"a.pay.internal", "pay.internal", true},
		{"*.pay.internal", "pay.internal", true}, {"xpay.internal", "pay.internal", false},
		{"internal", "pay.internal", false},
	} {
		if WithinDomain(c.name, c.domain) != c.want {
			t.Errorf("WithinDomain(%q, %q) != %v", c.name, c.domain, c.want)
		}
	}
}

func TestForwarders(t *testing.T) {
	for f, want := range map[string][2]bool{ // without and with plain allowed
		"tls://192.0.2.1": {true, true}, "tls://192.0.2.1:853": {true, true}, "tls://[2001:db8::1]:853": {true, true},
		"192.0.2.1": {false, true}, "192.0.2.1:53": {false, true}, "10.0.0.9": {false, true},
		"tcp://192.0.2.1": {false, true}, "tcp://192.0.2.1:5353": {false, true}, "tcp://dns.example": {false, false},
		"tls://tcp://192.0.2.1": {false, false}, "tcp://tls://192.0.2.1": {false, false}, "udp://192.0.2.1": {false, false},
		"dns.example": {false, false}, "tls://dns.example": {false, false}, "": {false, false}, "tls://": {false, false},
		"192.0.2.1:0": {false, false}, "tls://0.0.0.0": {false, false}, "tls://224.0.0.1": {false, false},
		"https://192.0.2.1": {false, false},
	} {
		for i, plain := range []bool{false, true} {
			if got := ValidateForwarder(f, plain) == nil; got != want[i] {
				t.Errorf("ValidateForwarder(%q, %v) = %v", f, plain, got)
			}
		}
	}
}

func TestRules(t *testing.T) {
	any4 := netip.MustParsePrefix("0.0.0.0/0")
	group := "sg-" + hex17
	for name, c := range map[string]struct {
		rule Rule
		code ErrorCode
	}{
		"tcp to all":       {Rule{Protocol: TCP, FromPort: 443, ToPort: 443, CIDR: any4}, ""},
		"udp range, group": {Rule{Protocol: UDP, FromPort: 1, ToPort: 65535, Group: group}, ""},
		"all":              {Rule{Protocol: All, CIDR: any4}, ""},
		"icmp":             {Rule{Protocol: ICMP, Group: group}, ""},
		"icmp type":        {Rule{Protocol: ICMP, ICMPType: ICMPOf(8), CIDR: any4}, ""},
		"icmp type, code":  {Rule{Protocol: ICMP, ICMPType: ICMPOf(0), ICMPCode: ICMPOf(255), CIDR: any4}, ""},
		"code only":        {Rule{Protocol: ICMP, ICMPCode: ICMPOf(0), CIDR: any4}, CodeInvalidParameter},
		"tcp with type":    {Rule{Protocol: TCP, FromPort: 1, ToPort: 2, ICMPType: ICMPOf(8), CIDR: any4}, CodeInvalidParameter},
		"all with type":    {Rule{Protocol: All, ICMPType: ICMPOf(8), CIDR: any4}, CodeInvalidParameter},
		"no such type":     {Rule{Protocol: ICMP, ICMPType: 257, CIDR: any4}, CodeInvalidParameter},
		"no ports":         {Rule{Protocol: TCP, CIDR: any4}, CodeInvalidParameter},
		"exchanged":        {Rule{Protocol: TCP, FromPort: 2, ToPort: 1, CIDR: any4}, CodeInvalidParameter},
		"all with ports":   {Rule{Protocol: All, FromPort: 1, ToPort: 2, CIDR: any4}, CodeInvalidParameter},
		"both":             {Rule{Protocol: All, CIDR: any4, Group: group}, CodeInvalidCombination},
		"neither":          {Rule{Protocol: All}, CodeInvalidCombination},
		"protocol":         {Rule{Protocol: "sctp", CIDR: any4}, CodeInvalidParameter},
		"host bits":        {Rule{Protocol: All, CIDR: netip.MustParsePrefix("10.0.0.1/8")}, CodeInvalidParameter},
		"IPv6":             {Rule{Protocol: All, CIDR: netip.MustParsePrefix("::/0")}, ""},
		"icmpv6":           {Rule{Protocol: ICMPv6, CIDR: netip.MustParsePrefix("::/0")}, ""},
		"icmpv6, group":    {Rule{Protocol: ICMPv6, Group: group}, ""},
		"icmpv6 of IPv4":   {Rule{Protocol: ICMPv6, CIDR: any4}, CodeInvalidParameter},
		"icmp of IPv6":     {Rule{Protocol: ICMP, CIDR: netip.MustParsePrefix("::/0")}, CodeInvalidParameter},
		"IPv6 of others":   {Rule{Protocol: All, CIDR: netip.MustParsePrefix("2001:db8::/32")}, CodeInvalidParameter},
		"wrong kind":       {Rule{Protocol: All, Group: "vpc-" + hex17}, CodeInvalidParameter},
		"description":      {Rule{Protocol: All, CIDR: any4, Description: "a\nb"}, CodeInvalidParameter},
	} {
		wantCode(t, name, c.rule.Validate(), c.code)
	}
	g := &SecurityGroup{Meta: meta(KindSecurityGroup), VPC: "vpc-" + hex17, Ingress: []Rule{
		{ID: "sgr-" + hex17, Protocol: All, CIDR: any4, Description: "one"},
		{ID: "sgr-" + hex17, Protocol: All, CIDR: any4, Description: "two"},
	}}
	wantCode(t, "duplicate", g.Validate(), CodePermissionDuplicate)
}

func TestENIs(t *testing.T) {
	good := func() *ENI {
		return &ENI{Meta: meta(KindENI), Type: ENIWorkload, VPC: "vpc-" + hex17, Subnet: "subnet-" + hex17,
			Address: netip.MustParseAddr("10.0.0.5"), SecurityGroups: []string{"sg-" + hex17}}
	}
	for name, c := range map[string]struct {
		change func(*ENI)
		code   ErrorCode
	}{
		"good":            {func(*ENI) {}, ""},
		"no address":      {func(n *ENI) { n.Address = netip.Addr{} }, CodeAddressInvalid},
		"IPv6":            {func(n *ENI) { n.Address = netip.MustParseAddr("fd00::1") }, CodeAddressInvalid},
		"no group":        {func(n *ENI) { n.SecurityGroups = nil }, CodeMissingParameter},
		"group twice":     {func(n *ENI) { n.SecurityGroups = []string{"sg-" + hex17, "sg-" + hex17} }, CodeInvalidParameter},
		"owner":           {func(n *ENI) { n.Owner = "vpce-" + hex17 }, CodeInvalidParameter},
		"endpoint":        {func(n *ENI) { n.Type, n.Owner = ENIEndpoint, "vpce-"+hex17 }, ""},
		"endpoint's node": {func(n *ENI) { n.Type, n.Owner, n.Node = ENIEndpoint, "vpce-"+hex17, "node-"+hex17 }, CodeInvalidParameter},
		"wrong owner":     {func(n *ENI) { n.Type, n.Owner = ENILoadBalancer, "vpce-"+hex17 }, CodeInvalidParameter},
		"type":            {func(n *ENI) { n.Type = "trunk" }, CodeInvalidParameter},
		"tags":            {func(n *ENI) { n.Tags = map[string]string{"": "x"} }, CodeInvalidParameter},
	} {
		n := good()
		c.change(n)
		wantCode(t, name, n.Validate(), c.code)
	}
}

func TestListenersAndGroups(t *testing.T) {
	l := Listener{ID: "listener-" + hex17, Protocol: TCP, Port: 443, TargetGroup: "tg-" + hex17, IdleTimeoutSeconds: 350}
	wantCode(t, "good", l.Validate(), "")
	for _, s := range []uint32{0, 59, 6001} {
		m := l
		m.IdleTimeoutSeconds = s
		wantCode(t, "timeout", m.Validate(), CodeInvalidParameter)
	}
	u := l
	u.Protocol, u.IdleTimeoutSeconds = UDP, UDPIdleTimeout
	b := &LoadBalancer{Meta: meta(KindLoadBalancer), VPC: "vpc-" + hex17, Subnets: []string{"subnet-" + hex17},
		Listeners: []Listener{l, u}}
	wantCode(t, "tcp and udp", b.Validate(), "")
	b.Listeners = []Listener{l, l}
	wantCode(t, "twice", b.Validate(), CodeDuplicateName)
	g := &TargetGroup{Meta: meta(KindTargetGroup), VPC: "vpc-" + hex17, Protocol: TCP, Port: 8443,
		Targets: []Target{{ENI: "eni-" + hex17}, {ENI: "eni-" + hex17, Port: 1}}, HealthCheck: DefaultHealthCheck(TCP),
		MinimumHealthyTargets: MinimumHealthy{Count: 1}}
	wantCode(t, "two ports", g.Validate(), "")
	g.Targets[1].Port = 0
	wantCode(t, "target twice", g.Validate(), CodeInvalidParameter)
	g.Protocol = All
	wantCode(t, "protocol", g.Validate(), CodeInvalidParameter)
}

func TestNodesAndKeys(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	n := &Node{Meta: Meta{ID: "node-" + hex17, Name: "host-a.example"}, PublicKey: key, Underlay: []string{"192.0.2.7:51820"}}
	wantCode(t, "good", n.Validate(), "")
	for _, u := range []string{"192.0.2.7", "192.0.2.7:0", "0.0.0.0:1", "[ff02::1]:1", "[fe80::1%eth0]:1", "host:1"} {
		m := *n
		m.Underlay = []string{u}
		wantCode(t, u, m.Validate(), CodeInvalidParameter)
	}
	m := *n
	m.Underlay = nil
	wantCode(t, "no address", m.Validate(), CodeUnderlayAddressMissing)
	m = *n
	m.PublicKey = base64.StdEncoding.EncodeToString(make([]byte, 32))
	wantCode(t, "zero key", m.Validate(), CodeInvalidParameter)
	k := &APIKey{Meta: Meta{ID: "key-" + hex17, Account: testAcc}}
	wantCode(t, "account's", k.Validate(), "")
	k.Admin = true
	wantCode(t, "both", k.Validate(), CodeInvalidCombination)
	a := &Account{Meta: Meta{ID: testAcc, Name: "pay"}, Domains: []string{"pay.internal"}}
	wantCode(t, "account", a.Validate(), "")
	a.Domains = []string{"internal"}
	wantCode(t, "above the reserved one", a.Validate(), CodeInvalidParameter)
}
