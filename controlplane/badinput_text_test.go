package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/badinput"
)

// request is one request of an account, as it is written.
type request struct {
	as, method, path, body string
	header                 []string
}

func (l *lab) try(r *raw, q request) *answer {
	key := l.keys[q.as]
	if q.as == "admin" {
		key = l.adminKey
	}
	return r.do(q.method, q.path, key, q.body, q.header...)
}

// stored is all that the store holds, less what each refusal may add: audit events, and what nodes last said.
func (l *lab) stored() any {
	l.t.Helper()
	all := map[string]string{}
	for _, kv := range must(l.s.store.List(context.Background(), "", "", math.MaxInt))(l.t) {
		top, _, _ := strings.Cut(kv.Key, "/")
		switch top + "/" {
		case store.PrefixAudit, store.PrefixCounted, store.PrefixStatus:
		default:
			all[kv.Key] = string(kv.Value)
		}
	}
	for key := range maps.Keys(all) {
		if strings.HasPrefix(key, store.AuditPrefixOf("")[:len("audit")]) || key == "head" {
			delete(all, key)
		}
	}
	return all
}

// refused is the error of an answer, nil when it is none.
func (a *answer) refused(t *testing.T) error {
	t.Helper()
	if a.status < 400 {
		return nil
	}
	return a.refusal(t)
}

func table(t *testing.T, l *lab, rows []badinput.Row[request]) {
	t.Helper()
	user := l.rawClient(nil)
	badinput.Table(t, rows, l.stored, func(t *testing.T, q request) error { return l.try(user, q).refused(t) })
}

// text is a JSON string.
func text(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// TestBadNames: names and ids in every shape that two readers, a log, or a terminal could take for another.
func TestBadNames(t *testing.T) {
	l, _ := crowded(t)
	const remedy = "1 to 63 lower-case letters"
	var rows []badinput.Row[request]
	for name, s := range map[string]string{
		"64 characters": strings.Repeat("a", 64), "253 characters": strings.Repeat("a",
			253), "a megabyte less some": strings.Repeat("a", 1<<20-100),
		"dots": "..", "a slash": "a/b", "escaped dots": "%2e%2e", "NUL": "a\x00b", "a line's end": "a\r\nb", "a tab": "a\tb",
		"a leading hyphen": "-a", "a trailing hyphen": "a-", "an emoji": "sh🦊p", "right-to-left override": "a\u202eb",
		"a zero-width space": "a\u200bb", "composed": "caf\u00e9", "decomposed": "cafe\u0301", "a Cyrillic a": "sh\u043ep",
		"upper case": "SHOP",
		"a capital":  "Shop", "a wildcard": "*", "a space": "a b", "a quote": `a"b`, "a template": "{{.}}", "an escape": "\x1b[31m",
		"an id of UUID shape in braces": "{00000000-0000-0000-0000-000000000000}", "a full-width digit": "shop\uff11",
		"the replacement character": "a\ufffdb", "a byte order mark": "\ufeffshop", "a semicolon": "a;rm", "a percent": "50%",
	} {
		rows = append(rows, badinput.Row[request]{Name: "name: " + name, In: request{as: "shop", method: "POST", path: "/v1/vpcs",
			body: `{"cidr":"10.0.0.0/16","name":` + text(s) + `}`}, Code: api.CodeInvalidParameter, Field: "name", Remedy: remedy})
	}
	for _, id := range []string{noVPC, noENI, noListener, "sgr-00000000000000000", "000000000000"} {
		rows = append(rows, badinput.Row[request]{Name: "name: the id " + id, In: request{as: "shop", method: "POST", path: "/v1/vpcs",
			body: `{"cidr":"10.0.0.0/16","name":` + text(id) + `}`}, Code: api.CodeInvalidParameter, Field: "name", Remedy: "not an id"})
	}
	for name, ref := range map[string]string{
		"dots": "%2e%2e", "a slash": "a%2fb", "NUL": "%00", "a line's end": "a%0d%0aSet-Cookie:x", "a wildcard": "*",
		"escaped twice":          "%252e%252e",
		"right-to-left override": "%e2%80%ae", "not UTF-8": "%ff%fe", "upper-case hexadecimal": strings.ToUpper(noVPC),
		"another kind's id": noENI,
		"digits too many":   noVPC + "0", "long": strings.Repeat("v", 8000), "a query in it": "shop%3fdryRun=true", "braces": "%7bid%7d",
		"a space before": "%20shop", "another's": "pay", "a terminal's escape": "%1b%5b2J",
	} {
		rows = append(rows, badinput.Row[request]{Name: "id: " + name, In: request{as: "shop", method: "DELETE",
			path: "/v1/vpcs/" + ref},
			Code: api.CodeVPCNotFound, Field: "id", Remedy: "GET /v1/vpcs"})
	}
	for name, c := range map[string]struct{ domain, remedy string }{
		"IDN": {"b\u00fccher.example", "xn--"}, "a trailing dot": {"a.example.", "last dot"}, "a capital": {"A.example", "lower case"},
		"an address": {"10.0.0.1", "not an address"}, "an empty label": {"a..b",
			"labels of 1 to 63"}, "a long label": {strings.Repeat("a", 64) + ".b", "labels of 1 to 63"},
		"254 bytes": {strings.Repeat("abcdefg.", 31) + "abcdef", "shorter"}, "a wildcard": {"*.example",
			"labels"}, "an underscore": {"_a.example", "labels"},
		"NUL": {"a\x00.example", "labels"}, "a homoglyph's dot": {"a\u3002example", "xn--"}, "the reserved one": {api.ReservedDomain,
			"another domain"},
		"below the reserved one": {"a." + api.ReservedDomain, "another domain"}, "nothing": {"", "labels"},
	} {
		rows = append(rows, badinput.Row[request]{Name: "domain: " + name, In: request{as: "admin", method: "POST",
			path: "/v1/accounts/shop/domains",
			body: `{"domain":` + text(c.domain) + `}`}, Code: api.CodeInvalidParameter, Field: "domain", Remedy: c.remedy})
	}
	for name, tags := range map[string]string{
		"an empty key": `{"":"x"}`, "a key of 129": `{` + text(strings.Repeat("k",
			129)) + `:"x"}`, "a value of 257": `{"k":` + text(strings.Repeat("v", 257)) + `}`,
		"a line's end in a key": `{"a\nb":"x"}`, "NUL in a value": `{"k":"\u0000"}`, "right-to-left override": `{"k":"\u202e"}`,
		"a terminal's escape": `{"k":"\u001b[2J"}`, "a zero-width joiner": `{"k\u200d":"x"}`,
	} {
		rows = append(rows, badinput.Row[request]{Name: "tags: " + name, In: request{as: "shop", method: "POST", path: "/v1/vpcs",
			body: `{"cidr":"10.0.0.0/16","tags":` + tags + `}`}, Code: api.CodeInvalidParameter, Field: "tags", Remedy: "printable"})
	}
	many := make([]string, api.MaxResourceTags+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"k%d":"v"`, i)
	}
	rows = append(rows, badinput.Row[request]{Name: "tags: one too many", In: request{as: "shop", method: "POST", path: "/v1/vpcs",
		body: `{"cidr":"10.0.0.0/16","tags":{` + strings.Join(many,
			",") + `}}`}, Code: api.CodeLimitExceeded, Field: "tags", Remedy: "remove"})
	table(t, l, rows)
}

// TestBadNumbers: prefixes, addresses, ports and protocols.
func TestBadNumbers(t *testing.T) {
	l, _ := crowded(t)
	var rows []badinput.Row[request]
	add := func(name, as, path, body string, code api.ErrorCode, field, remedy string) {
		rows = append(rows, badinput.Row[request]{Name: name, In: request{as: as, method: "POST", path: path, body: body}, Code: code,
			Field: field, Remedy: remedy})
	}
	for _, c := range []struct{ cidr, remedy string }{
		{"0.0.0.0/0", "size"}, {"10.0.0.1/16", "write 10.0.0.0/16"}, {"10.0.0.0/29", "size"}, {"10.0.0.0/32",
			"size"}, {"127.0.0.0/16", "10.0.0.0/8"},
		{"169.254.0.0/16", "10.0.0.0/8"}, {"224.0.0.0/16", "10.0.0.0/8"}, {"240.0.0.0/16", "10.0.0.0/8"}, {"8.8.8.0/24", "10.0.0.0/8"},
		{"fd00::/16", "10.0.0.0/16"}, {"172.32.0.0/16", "10.0.0.0/8"}, {"100.128.0.0/16", "10.0.0.0/8"}, {"255.255.0.0/16", "10.0.0.0/8"},
	} {
		add("VPC "+c.cidr, "shop", "/v1/vpcs", `{"cidr":`+text(c.cidr)+`}`, api.CodeVPCRange, "cidr", c.remedy)
	}
	for _, cidr := range []string{"10.0.0.0/33", "10.0.0.0", "10.0.0.0/", "/16", "010.0.0.0/16", "10.0.0.0/016", "10.0.0.0/-1",
		"10.0.0.0/+8", "10.0/16",
		"::ffff:10.0.0.0/112", "fe80::1%eth0/64", ":::/0", "1:2:3:4:5:6:7:8:9/64", "::1::/64", "fd00::/129",
		"fd00::", "10.0.0.0/16 ", "１０.0.0.0/16", "10.0.0.0/16,10.1.0.0/16", "0xa.0.0.0/16", "10.0.0.256/24"} {
		add("VPC "+cidr, "shop", "/v1/vpcs", `{"cidr":`+text(cidr)+`}`, api.CodeInvalidParameter, "cidr", "IPv4 prefix")
	}
	for _, address := range []string{"10.0.1.0", "10.0.1.1", "10.0.1.3", "10.0.1.255"} {
		add("ENI at "+address, "shop", "/v1/enis", `{"subnetId":"shop-a","address":`+text(address)+`}`, api.CodeAddressInvalid,
			"address", "reserved")
	}
	for _, address := range []string{"10.0.3.9", "::ffff:10.0.1.9", "fe80::1", "127.0.0.1", "255.255.255.255", "0.0.0.0",
		"224.0.0.1", "169.254.169.254"} {
		add("ENI at "+address, "shop", "/v1/enis", `{"subnetId":"shop-a","address":`+text(address)+`}`, api.CodeAddressInvalid,
			"address", "subnet's")
	}
	for _, path := range []string{"enis", "endpoints"} {
		body := map[string]string{"enis": `"subnetId":"shop-a"`, "endpoints": `"vpcId":"shop","service":"pay/ledger"`}[path]
		add("families of "+path, "shop", "/v1/"+path, `{`+body+`,"ipAddressType":"IPv6"}`, api.CodeInvalidParameter, "ipAddressType",
			"ipv4, dualstack or ipv6")
	}
	for _, address := range []string{"10.0.1", "010.0.1.9", "10.0.1.9/32", "localhost", " 10.0.1.9"} {
		add("ENI at "+address, "shop", "/v1/enis", `{"subnetId":"shop-a","address":`+text(address)+`}`, api.CodeInvalidParameter,
			"address", "an IP address")
	}
	for port, remedy := range map[string]string{"0": "1 to 65535", "-1": "0 or more", "65536": "65535 or less",
		"80.5": "whole number", `"80"`: "whole number",
		`"http"`: "whole number", "1e9": "65535 or less", "9223372036854775808": "65535 or less",
		"18446744073709551616": "65535 or less", "1e99": "65535 or less",
		"true": "whole number", "null": "whole number", "[80]": "whole number", "{}": "whole number"} {
		add("target port "+port, "pay", "/v1/target-groups", `{"vpcId":"pay","protocol":"tcp","port":`+port+`}`,
			api.CodeInvalidParameter, "port", remedy)
	}
	for protocol, remedy := range map[string]string{`"TCP"`: "tcp or udp", `"sctp"`: "tcp or udp", `""`: "tcp or udp",
		`"6"`: "tcp or udp", "6": "a text", `"-1"`: "tcp or udp",
		`"tcp "`: "tcp or udp", `"tcp\u0000"`: "tcp or udp", "255": "a text", "null": "a text"} {
		add("protocol "+protocol, "pay", "/v1/target-groups", `{"vpcId":"pay","protocol":`+protocol+`,"port":1}`,
			api.CodeInvalidParameter, "protocol", remedy)
	}
	rule := func(name, r string, code api.ErrorCode, field, remedy string) {
		add("rule: "+name, "pay", "/v1/security-groups/web/ingress", `{"rules":[`+r+`]}`, code, field, remedy)
	}
	rule("ports the wrong way", `{"protocol":"tcp","fromPort":80,"toPort":79,"cidr":"10.0.0.0/8"}`, api.CodeInvalidParameter,
		"fromPort", "exchange")
	rule("only one port", `{"protocol":"tcp","fromPort":80,"cidr":"10.0.0.0/8"}`, api.CodeInvalidParameter, "fromPort",
		"fromPort and toPort")
	rule("ports of ICMP", `{"protocol":"icmp","fromPort":8,"toPort":8,"cidr":"10.0.0.0/8"}`, api.CodeInvalidParameter, "fromPort",
		"leave")
	rule("host bits", `{"protocol":"-1","cidr":"10.0.0.1/8"}`, api.CodeInvalidParameter, "cidr", "write 10.0.0.0/8")
	rule("IPv6 of the Internet", `{"protocol":"-1","cidr":"2001:db8::/32"}`, api.CodeInvalidParameter, "cidr", "ipv6CidrBlock")
	rule("IPv6 of another mesh", `{"protocol":"-1","cidr":"fd00:0:0:1::/64"}`, api.CodeInvalidParameter, "cidr", "ipv6CidrBlock")
	rule("icmp of IPv6", `{"protocol":"icmp","cidr":"::/0"}`, api.CodeInvalidParameter, "protocol", "icmpv6")
	rule("icmpv6 of IPv4", `{"protocol":"icmpv6","cidr":"10.0.0.0/8"}`, api.CodeInvalidParameter, "protocol", "give icmp")
	rule("IPv4 written as IPv6", `{"protocol":"-1","cidr":"::ffff:10.0.0.0/104"}`, api.CodeInvalidParameter, "rules[0].cidr",
		"IPv4 prefix")
	rule("prefix and group", `{"protocol":"-1","cidr":"10.0.0.0/8","groupId":"web"}`, api.CodeInvalidCombination, "cidr",
		"one of them")
	rule("another's group", `{"protocol":"-1","groupId":"nobody"}`, api.CodeGroupNotFound, "groupId", "security-groups")
	rule("the third is the bad one", `{"protocol":"-1","cidr":"10.0.0.0/9"},{"protocol":"-1","cidr":"10.128.0.0/9"},{"protocol":"x","cidr":"10.0.0.0/8"}`,
		api.CodeInvalidParameter, "protocol", "tcp, udp")
	rule("the same twice", `{"protocol":"-1","cidr":"10.0.0.0/9"},{"protocol":"-1","cidr":"10.0.0.0/9","description":"again"}`,
		api.CodePermissionDuplicate, "rules", "leave it out")
	rule("61 of them", distinct(61), api.CodeLimitExceeded, "rules", "second group")
	rule("a description with a line's end", `{"protocol":"-1","cidr":"10.0.0.0/8","description":"a\nb"}`, api.CodeInvalidParameter,
		"description", "printable")
	rule("a description of 256", `{"protocol":"-1","cidr":"10.0.0.0/8","description":`+text(strings.Repeat("d", 256))+`}`,
		api.CodeInvalidParameter, "description", "255")
	for ttl, remedy := range map[string]string{"0.5": "whole number", "-1": "60", "1000000000000": "60", "59": "60",
		"9223372036854775808": "smaller", `"60"`: "whole number"} {
		add("token for "+ttl, "admin", "/v1/tokens", `{"ttlSeconds":`+ttl+`}`, api.CodeInvalidParameter, "ttlSeconds", remedy)
	}
	for _, f := range []string{"tls://0.0.0.0", "tls://224.0.0.1", "tls://fe80::1%eth0", "tls://192.0.2.1:0",
		"tls://192.0.2.1:65536", "tls://dns.example", "tls://", "https://192.0.2.1",
		"192.0.2.1", "tls://192.0.2.1\n"} {
		add("forwarder "+text(f), "admin", "/v1/vpcs", `{"cidr":"10.9.0.0/16","forwarders":[`+text(f)+`]}`, api.CodeInvalidParameter,
			"forwarders", "tls://")
	}
	for i := range rows {
		r := &rows[i]
		if strings.HasPrefix(r.Name, "forwarder ") {
			r.In.header = []string{"Culvert-Account", "shop"}
		}
	}
	table(t, l, rows)
}

// distinct is a list of n rules, no two the same.
func distinct(n int) string {
	var b []string
	for i := range n {
		b = append(b, fmt.Sprintf(`{"protocol":"tcp","fromPort":%d,"toPort":%[1]d,"cidr":"10.0.0.0/8"}`, i+100))
	}
	return strings.Join(b, ",")
}
