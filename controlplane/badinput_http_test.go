package controlplane

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/badinput"
)

func zipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.String()
}

// TestBadBodies: what is no JSON, or JSON that could be read in two ways.
func TestBadBodies(t *testing.T) {
	l, _ := crowded(t)
	const good = `"cidr":"10.9.0.0/16"`
	var rows []badinput.Row[request]
	add := func(name, body string, code api.ErrorCode, field, remedy string, header ...string) {
		rows = append(rows, badinput.Row[request]{Name: name, In: request{"shop", "POST", "/v1/vpcs", body, header}, Code: code,
			Field: field, Remedy: remedy})
	}
	for name, body := range map[string]string{
		"nothing": "", "white space": " \n", "half": `{` + good, "a list": `[{` + good + `}]`, "null": "null",
		"a text": `"` + "cidr" + `"`, "a number": "1", "true": "true",
		"NaN": `{` + good + `,"name":NaN}`, "infinity": `{` + good + `,"name":Infinity}`, "a byte order mark": "\ufeff{" + good + "}",
		"a comment":        "{/**/" + good + "}",
		"a comma too many": `{` + good + `,}`, "single quotes": `{'cidr':'10.9.0.0/16'}`, "no quotes": `{cidr:"10.9.0.0/16"}`,
		"two values":       `{` + good + `}{` + good + `}`,
		"something behind": `{` + good + `} x`, "a name twice": `{"cidr":"10.8.0.0/16",` + good + `}`,
		"a tag twice":           `{` + good + `,"tags":{"a":"1","a":"2"}}`,
		"a name twice, escaped": `{"\u0063idr":"10.8.0.0/16",` + good + `}`, "not UTF-8": "{" + good + ",\"name\":\"\xff\"}",
		"overlong UTF-8": "{" + good + ",\"name\":\"\xc0\xaf\"}",
		"Latin-1":        "{" + good + ",\"name\":\"caf\xe9\"}", "NUL outside": "{" + good + "}\x00",
		"NUL inside": "{" + good + ",\"name\":\"a\x00b\"}", "a bare line's end": "{" + good + ",\"name\":\"a\nb\"}",
		"deep lists":   `{` + good + `,"tags":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`,
		"deep objects": strings.Repeat(`{"a":`, 9_000) + "1" + strings.Repeat("}", 9_000), "very deep": strings.Repeat("[",
			500_000), "UTF-16": "\xff\xfe{\x00}\x00",
		"compressed": zipped(`{` + good + `}`), "a form": "cidr=10.9.0.0%2F16", "YAML": "cidr: 10.9.0.0/16\n", "XML": "<vpc/>",
		"a leading zero": `{` + good + `,"name":01}`,
		"hexadecimal":    `{` + good + `,"name":0x1}`, "half a surrogate's escape": `{` + good + `,"name":"\ud8"}`,
	} {
		add(name, body, api.CodeInvalidParameter, "body", "one JSON object")
	}
	add("compressed, and said so", zipped(`{`+good+`}`), api.CodeInvalidParameter, "body", "one JSON object", "Content-Encoding",
		"gzip")
	add("a bomb", zipped(strings.Repeat(" ", 64<<20)), api.CodeInvalidParameter, "body", "one JSON object", "Content-Encoding",
		"gzip")
	add("too large", strings.Repeat(" ", maxBody+1), api.CodeRequestTooLarge, "body", "send less")
	add("a megabyte of commas", `{"tags":{`+strings.Repeat(",", 900_000), api.CodeInvalidParameter, "body", "one JSON object")
	add("an unknown property", `{`+good+`,"colour":"red"}`, api.CodeInvalidParameter, "colour", "leave it out")
	add("a property in other case", `{`+good+`,"Name":"x"}`, api.CodeInvalidParameter, "Name", "leave it out")
	add("one in two spellings", `{`+good+`,"CIDR":"10.8.0.0/16"}`, api.CodeInvalidParameter, "CIDR", "leave it out")
	add("prototype", `{`+good+`,"__proto__":{}}`, api.CodeInvalidParameter, "__proto__", "leave it out")
	add("a line's end in a property", `{`+good+`,"a\nb":1}`, api.CodeInvalidParameter, `a\nb`, "leave it out")
	add("a long property", `{`+good+`,"`+strings.Repeat("x", 100_000)+`":1}`, api.CodeInvalidParameter, strings.Repeat("x",
		300)+"…", "leave it out")
	add("null for a text", `{"cidr":null}`, api.CodeInvalidParameter, "cidr", "a text")
	add("null for a list", `{`+good+`,"forwarders":[null]}`, api.CodeInvalidParameter, "forwarders[0]", "a text")
	add("a number for a text", `{`+good+`,"name":7}`, api.CodeInvalidParameter, "name", "a text")
	add("a text for a list", `{`+good+`,"forwarders":"tls://192.0.2.1"}`, api.CodeInvalidParameter, "forwarders", "a list")
	add("a list for an object", `{`+good+`,"tags":[]}`, api.CodeInvalidParameter, "tags", "an object")
	add("an object for a text", `{"cidr":{}}`, api.CodeInvalidParameter, "cidr", "a text")
	add("a text for true", `{`+good+`,"plainForwarders":"yes"}`, api.CodeInvalidParameter, "plainForwarders", "true or false")
	add("one for true", `{`+good+`,"plainForwarders":1}`, api.CodeInvalidParameter, "plainForwarders", "true or false")
	add("a tag's value that is a number", `{`+good+`,"tags":{"a":1}}`, api.CodeInvalidParameter, "tags.a", "a text")
	add("100,000 wrong ones", `{`+good+`,"forwarders":`+many(100_000, "1")+`}`, api.CodeInvalidParameter, "forwarders[0]", "a text")
	add("100,000 right ones", `{`+good+`,"forwarders":`+many(30_000, `"tls://192.0.2.1"`)+`}`, api.CodeLimitExceeded, "forwarders",
		"remove some")
	for _, kind := range []string{"text/csv", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
		"application/cbor", "application/xml", "nonsense", "application/jsonx"} {
		add("type "+kind, `{`+good+`}`, api.CodeInvalidParameter, "Content-Type", "application/json", "Content-Type", kind)
	}
	table(t, l, rows)
}

// TestBadLines: methods, paths, queries and headers.
func TestBadLines(t *testing.T) {
	l, _ := crowded(t)
	const body = `{"cidr":"10.9.0.0/16"}`
	var rows []badinput.Row[request]
	add := func(name string, q request, code api.ErrorCode, field, remedy string) {
		rows = append(rows, badinput.Row[request]{Name: name, In: q, Code: code, Field: field, Remedy: remedy})
	}
	for _, method := range []string{"PUT", "OPTIONS", "TRACE", "PROPFIND", "post", "GETT", "DELETE"} {
		add("method "+method, request{as: "shop", method: method, path: "/v1/vpcs"}, api.CodeRouteNotFound, "", "/openapi.json")
	}
	for name, path := range map[string]string{"dots": "/v1/../v1/vpcs", "escaped dots": "/v1/%2e%2e/v1/vpcs",
		"two slashes": "//v1/vpcs", "a slash inside": "/v1//vpcs", "a dot": "/v1/./vpcs",
		"a slash at the end": "/v1/vpcs/", "files": "/etc/passwd", "other case": "/V1/VPCS", "nothing": "/", "debug": "/debug/pprof/",
		"another version": "/v2/vpcs", "a line's end": "/v1/vpcs%0d%0ax",
		"NUL": "/v1/vpcs%00", "metrics of nobody": "/v1/metrics", "long": "/v1/" + strings.Repeat("x", 60_000)} {
		add("path: "+name, request{as: "shop", method: "POST", path: path, body: body}, api.CodeRouteNotFound, "", "/openapi.json")
	}
	for _, q := range []struct{ query, field, remedy string }{
		{"dryrun=true", "dryrun", "leave it out"}, {"DryRun=true", "DryRun", "leave it out"}, {"dryRun=yes", "dryRun",
			"true or false"}, {"dryRun=", "dryRun", "give a value"},
		{"dryRun=2", "dryRun", "true or false"}, {"dryRun=true&dryRun=false", "dryRun", "once"}, {"force=true", "force",
			"leave it out"}, {"dryRun=%00", "dryRun", "true or false"},
		{"dryRun=true;x=1", "query", "escape"}, {"%zz=1", "query", "escape"},
	} {
		add("query "+q.query, request{as: "shop", method: "POST", path: "/v1/vpcs?" + q.query, body: body}, api.CodeInvalidParameter,
			q.field, q.remedy)
	}
	for _, c := range []struct{ name, header, value, field, remedy string }{
		{"a key of 200 bytes", "Idempotency-Key", strings.Repeat("x", 200), "Idempotency-Key", "UUID"},
		{"a key with a slash", "Idempotency-Key", "../../resource/x", "Idempotency-Key", "UUID"},
		{"a key outside ASCII", "Idempotency-Key", "k\u00e9y", "Idempotency-Key", "UUID"},
	} {
		add(c.name, request{"shop", "POST", "/v1/vpcs", body, []string{c.header, c.value}}, api.CodeInvalidParameter, c.field, c.remedy)
	}
	for _, account := range []string{"pay", "nobody", "*", "", "000000000000", "shop,pay", "../pay", "sh\u00f6p"} {
		if account != "" {
			add("account "+account, request{"shop", "POST", "/v1/vpcs", body, []string{"Culvert-Account", account}},
				api.CodeAccountNotFound, "account", "GET /v1/accounts")
		}
	}
	add("an administrator for nobody", request{as: "admin", method: "POST", path: "/v1/vpcs", body: body},
		api.CodeMissingParameter, "account", "Culvert-Account")
	for name, value := range map[string]string{"nothing": "", "Basic": "Basic c2hvcDpzaG9w", "no key": "Bearer ",
		"two keys": "Bearer a.b, Bearer c.d", "a token without signature": "Bearer eyJhbGciOiJub25lIn0.e30.",
		"a path": "Bearer ../key.x", "a join token": "Bearer token-00000000000000000.x.y", "other case": "bearer " + l.keys["shop"],
		"a space more":  "Bearer  " + l.keys["shop"],
		"a letter more": "Bearer " + l.keys["shop"] + "x", "an id only": "Bearer " + strings.Split(l.keys["shop"],
			".")[0], "10,000 letters": "Bearer " + strings.Repeat("k", 10_000)} {
		add("key: "+name, request{"", "POST", "/v1/vpcs", body, []string{"Authorization", value}}, api.CodeAuthFailure, "", "key")
	}
	add("smuggled identity", request{"", "POST", "/v1/vpcs", body, []string{"X-Forwarded-User", "admin", "X-Forwarded-For",
		"127.0.0.1", "X-Real-IP", "127.0.0.1"}}, api.CodeAuthFailure, "", "key")
	table(t, l, rows)
}

// TestRepeatedWithOtherBody: a repeat key stands for one request of one caller, whatever else is sent under it.
func TestRepeatedWithOtherBody(t *testing.T) {
	l, _ := crowded(t)
	user := l.rawClient(nil)
	header := []string{"Idempotency-Key", "one"}
	first := request{"shop", "POST", "/v1/vpcs", `{"cidr":"10.9.0.0/16","name":"first"}`, header}
	if a := l.try(user, first); a.status >= 300 {
		t.Fatalf("%s", a.body)
	}
	var rows []badinput.Row[request]
	for name, q := range map[string]request{
		"another body":      {"shop", "POST", "/v1/vpcs", `{"cidr":"10.9.0.0/16","name":"second"}`, header},
		"another operation": {"shop", "POST", "/v1/security-groups", `{"vpcId":"shop","name":"new"}`, header},
		"a deletion":        {"shop", "DELETE", "/v1/vpcs/first", "", header},
		"another dry run":   {"shop", "POST", "/v1/vpcs?dryRun=true", `{"cidr":"10.9.0.0/16","name":"third"}`, header},
	} {
		rows = append(rows, badinput.Row[request]{Name: name, In: q, Code: api.CodeIdempotentMismatch, Field: "Idempotency-Key",
			Remedy: "new key"})
	}
	table(t, l, rows)
	before := l.stored()
	again, dry := l.try(user, first), l.try(user, request{"shop", "POST", "/v1/vpcs?dryRun=true", `{"cidr":"10.10.0.0/16"}`, nil})
	if again.status >= 300 || dry.status >= 300 || dry.header.Get("Culvert-Dry-Run") != "true" {
		t.Errorf("again %d %s, dry run %d %s", again.status, again.body, dry.status, dry.body)
	}
	if fmt.Sprint(l.stored()) != fmt.Sprint(before) {
		t.Error("a repetition or a dry run changed something")
	}
}

// TestRawRequests: what is not HTTP, or not all of it, is answered with an error of HTTP's own or the end of the connection.
func TestRawRequests(t *testing.T) {
	l, _ := crowded(t)
	key := "Authorization: Bearer " + l.keys["shop"] + "\r\n"
	host := "Host: " + client.ServerName + "\r\n"
	const body = `{"cidr":"10.9.0.0/16"}`
	for name, text := range map[string]string{
		"no HTTP":                    "\x00\x01\x02\x03\r\n\r\n",
		"no host":                    "POST /v1/vpcs HTTP/1.1\r\n" + key + "\r\n",
		"two hosts":                  "POST /v1/vpcs HTTP/1.1\r\n" + host + host + key + "Content-Length: 0\r\n\r\n",
		"a space in a header's name": "POST /v1/vpcs HTTP/1.1\r\n" + host + key + "Content-Length : 22\r\n\r\n" + body,
		"two lengths":                "POST /v1/vpcs HTTP/1.1\r\n" + host + key + "Content-Length: 22\r\nContent-Length: 2\r\n\r\n" + body,
		"a negative length":          "POST /v1/vpcs HTTP/1.1\r\n" + host + key + "Content-Length: -1\r\n\r\n" + body,
		"length and chunks":          "POST /v1/vpcs HTTP/1.1\r\n" + host + key + "Content-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunked garbage":            "POST /v1/vpcs HTTP/1.1\r\n" + host + key + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + body + "\r\n0\r\n\r\n",
		"a huge chunk":               "POST /v1/vpcs HTTP/1.1\r\n" + host + key + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n" + body,
		"an unknown encoding":        "POST /v1/vpcs HTTP/1.1\r\n" + host + key + "Transfer-Encoding: gzip\r\n\r\n" + body,
		"HTTP/3":                     "POST /v1/vpcs HTTP/3.0\r\n" + host + key + "Content-Length: 22\r\n\r\n" + body,
		"a NUL in a header":          "POST /v1/vpcs HTTP/1.1\r\n" + host + key + "X: a\x00b\r\nContent-Length: 22\r\n\r\n" + body,
		"a folded header":            "POST /v1/vpcs HTTP/1.1\r\n" + host + key + " more: x\r\nContent-Length: 22\r\n\r\n" + body,
		"two megabytes of headers": "POST /v1/vpcs HTTP/1.1\r\n" + host + key + "X: " + strings.Repeat("x",
			2<<20) + "\r\nContent-Length: 22\r\n\r\n" + body,
		"an absolute target": "POST http://127.0.0.1:1/v1/nothing HTTP/1.1\r\n" + host + key + "Content-Length: 0\r\n\r\n",
		"CONNECT":            "CONNECT 127.0.0.1:1 HTTP/1.1\r\n" + host + key + "\r\n",
		"less than was said": "POST /v1/vpcs HTTP/1.1\r\n" + host + key + "Content-Length: 1000\r\n\r\n" + body,
	} {
		t.Run(name, func(t *testing.T) {
			before := l.stored()
			c := l.rawConn()
			defer c.Close()
			_, _ = io.WriteString(c, text) // a server that has hung up is an answer
			_ = c.CloseWrite()
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode < 400 {
					t.Errorf("status %d", resp.StatusCode)
				}
			}
			if fmt.Sprint(l.stored()) != fmt.Sprint(before) {
				t.Error("something changed")
			}
		})
	}
}

// rawConn is a TLS connection to the server that speaks HTTP/1.1.
func (l *lab) rawConn() *tls.Conn {
	l.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(l.info.CA)
	inner := must(net.Dial("unix", strings.TrimPrefix(l.info.Addresses[0], "unix:")))(l.t)
	c := tls.Client(inner, &tls.Config{MinVersion: tls.VersionTLS13, ServerName: client.ServerName, RootCAs: roots})
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		l.t.Fatal(err)
	}
	return c
}
