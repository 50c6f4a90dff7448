package controlplane

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/internal/badinput"
)

// FuzzRequest: every changing operation answers whatever body and query it gets; what it refuses changes nothing in the store
// and names what is wrong, and nothing makes it fail or panic.
func FuzzRequest(f *testing.F) {
	l, h := crowded(f)
	routes := routes(l)
	ops := slices.DeleteFunc(slices.Sorted(maps.Keys(routes)), func(op string) bool {
		return routes[op].method == "GET" || strings.HasPrefix(routes[op].path, "/v1/tokens")
	})
	for i, op := range ops {
		for _, b := range slices.Concat(badAccounts, badNetworks, badBalancing(l), badServices(l), badEndpoints, badDNS(l), badNodes(h)) {
			if b.op == op && len(b.body) > 4 && len(b.body) < 500 {
				f.Add(uint8(i), "shop", "dryRun=true", []byte(b.body))
			}
		}
	}
	f.Add(uint8(0), "..", "dryRun=", []byte(`{"a":1,"a":2}`))
	user, machine := l.rawClient(nil), l.rawClient(h.cert)
	f.Fuzz(func(t *testing.T, which uint8, id, query string, body []byte) {
		l.t = t
		defer func() { l.t = f }() // what the lab cleans up, it does at the end of all
		r := routes[ops[int(which)%len(ops)]]
		path := r.fill(escaped(id), escaped(id)) + "?dryRun=true"
		if strings.Contains(r.path, "/node/") {
			path = r.path
		} else if query = escaped(query); query != "" {
			path += "&x" + query + "=1" // never known: the request is refused for it, whatever else is right
		}
		before := l.stored()
		var a *answer
		switch {
		case r.path == "/v1/node/join":
			a = user.do(r.method, path, "", string(body))
		case strings.Contains(r.path, "/node/"):
			a = machine.do(r.method, path, "", string(body))
		default:
			a = user.do(r.method, path, l.adminKey, string(body), "Culvert-Account", "shop")
		}
		if a.status >= 400 {
			e := a.refusal(t)
			if a.status >= 500 || e.Message == "" || e.Remedy == "" {
				t.Errorf("%s %s %q: %d %v", r.method, path, body, a.status, e)
			}
			badinput.Check(t, e, e.Code, e.Field, e.Remedy)
		}
		if strings.Contains(path, "dryRun") || a.status >= 400 {
			if fmt.Sprint(l.stored()) != fmt.Sprint(before) {
				t.Errorf("%s %s %q: %d, and something changed", r.method, path, body, a.status)
			}
		}
	})
}

// escaped writes every byte so that it means itself in a URL.
func escaped(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02x", c)
	}
	return b.String()
}
