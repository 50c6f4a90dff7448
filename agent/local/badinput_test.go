package local

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/badinput"
)

// counting is an agent that counts what reaches it.
type counting struct{ calls int }

func (c *counting) Attach(context.Context, AttachRequest) (AttachResponse, error) {
	c.calls++
	return AttachResponse{}, nil
}

func (c *counting) Detach(context.Context, DetachRequest) error { c.calls++; return nil }

func (c *counting) Status(context.Context) (Status, error) { c.calls++; return Status{}, nil }

func (c *counting) PlanText(context.Context) (string, error) { c.calls++; return "", nil }

func (c *counting) Explain(context.Context, ExplainRequest) (api.Explanation, error) {
	c.calls++
	return api.Explanation{}, nil
}

func (c *counting) Whois(context.Context, string) (Whois, error) { c.calls++; return Whois{}, nil }

func (c *counting) Flows(context.Context, api.FlowFilter, bool, func(*api.FlowRecord) error) error {
	c.calls++
	return nil
}

// ask is one request as it is written.
type ask struct{ method, target, body string }

// TestBadRequests: what the socket refuses never reaches the agent.
func TestBadRequests(t *testing.T) {
	b := &counting{}
	c := serve(t, b)
	var rows []badinput.Row[ask]
	add := func(name, method, target, body string, code api.ErrorCode, field, remedy string) {
		rows = append(rows, badinput.Row[ask]{Name: name, In: ask{method, target, body}, Code: code, Field: field, Remedy: remedy})
	}
	const bad = api.CodeInvalidParameter
	for _, path := range []string{"/v1/attach", "/v1/detach", "/v1/explain"} {
		for name, body := range map[string]string{
			"nothing": "", "half": `{"eniId":"eni-1"`, "a list": `[]`, "a text": `"eni-1"`, "two": `{}{}`, "garbage": "\x00\x01\xff",
			"not UTF-8": "{\"eniId\":\"\xff\"}",
			"deep":      strings.Repeat(`{"eniId":`, 1000) + "1" + strings.Repeat("}", 1000), "form": "eniId=eni-1", "NUL": "{}\x00",
			"a name twice":    `{"eniId":"a","eniId":"b"}`,
			"an unknown name": `{"colour":1}`,
		} {
			add(path+" "+name, "POST", path, body, bad, "body", "agent's version")
		}
		add(path+" huge", "POST", path, strings.Repeat(" ", maxBody+1), api.CodeRequestTooLarge, "body", "send less")
		add(path+" GET", "GET", path, "", api.CodeRouteNotFound, "", "agent's version")
	}
	add("attach: a number for an id", "POST", "/v1/attach", `{"eniId":7}`, bad, "eniId", "agent's version")
	add("attach: a text for true", "POST", "/v1/attach", `{"defaultRoute":"yes"}`, bad, "defaultRoute", "agent's version")
	add("attach: an object for a path", "POST", "/v1/attach", `{"netns":{}}`, bad, "netns", "agent's version")
	for _, port := range []string{"-1", "65536", `"443"`, "1.5", "1e9"} {
		add("explain: port "+port, "POST", "/v1/explain", `{"from":"eni-1","to":"x","port":`+port+`}`, bad, "port", "agent's version")
	}
	for _, c := range []struct{ query, field, remedy string }{
		{"since=yesterday", "since", "2026"}, {"until=1767366245", "until", "2026"}, {"since=2026-13-01T00:00:00Z", "since", "2026"},
		{"action=MAYBE", "action", "ACCEPT or REJECT"},
		{"port=0", "port", "1 to 65535"}, {"port=65536", "port", "1 to 65535"}, {"port=-1", "port", "1 to 65535"}, {"port=%2B1",
			"port", "1 to 65535"}, {"port=http", "port", "1 to 65535"},
		{"limit=-1", "limit", "0 for all"}, {"limit=1e3", "limit", "0 for all"}, {"limit=99999999999999999999", "limit", "0 for all"},
		{"address=localhost", "address", "10.0.1.5"},
		{"address=10.0.0.0/8", "address", "10.0.1.5"}, {"address=010.0.0.1", "address", "10.0.1.5"}, {"follow=yes", "follow",
			"true or false"}, {"follow=", "follow", "give a value"},
		{"colour=red", "colour", "use one of"}, {"Port=1", "Port", "use one of"}, {"port=1&port=2", "port", "once"}, {"port=%zz",
			"query", "escape"}, {"port=1;limit=2", "query", "escape"},
		{"a%0ab=1", `a\nb`, "use one of"},
	} {
		add("flows: "+c.query, "GET", "/v1/flows?"+c.query, "", bad, c.field, c.remedy)
	}
	for name, path := range map[string]string{"nothing": "/", "unknown": "/v1/nothing", "dots": "/v1/../v1/status",
		"two slashes": "//v1/status", "a slash behind": "/v1/status/",
		"other case": "/V1/status", "debug": "/debug/pprof/", "metrics of nobody": "/v1/metrics", "escaped": "/v1/%2e%2e/v1/status",
		"long": "/" + strings.Repeat("x", 100_000)} {
		add("path: "+name, "GET", path, "", api.CodeRouteNotFound, "", "agent's version")
	}
	for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"} {
		add("method "+method, method, "/v1/status", "", api.CodeRouteNotFound, "", "agent's version")
	}
	badinput.Table(t, rows, func() any { return b.calls }, func(t *testing.T, a ask) error { return refusalOf(t, c, a) })
}

// serve runs the API on a socket until the test ends.
func serve(t *testing.T, b Backend) *http.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "culvert") // a test's own directory can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "agent.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, socket, b, slog.New(slog.DiscardHandler)) }()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		for { // until it listens
			c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
			if err == nil || ctx.Err() != nil {
				return c, err
			}
		}
	}}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// refusalOf is the error that a request is answered with, nil for none.
func refusalOf(t *testing.T, c *http.Client, a ask) error {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), a.method, "http://agent"+a.target, strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode < 300 {
		return err
	}
	e := new(api.Error)
	if err := json.Unmarshal(data, e); err != nil || e.GetStatus() != resp.StatusCode {
		t.Fatalf("status %d: %q (%v)", resp.StatusCode, data, err)
	}
	return e
}
