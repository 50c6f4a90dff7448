package local

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/culvert-net/culvert/api"
)

// FuzzHandler: whatever is asked is answered by JSON, by the plan's text or as records; what is refused says what to do and never
// reaches the agent.
func FuzzHandler(f *testing.F) {
	f.Add("POST", "/v1/attach", []byte(`{"eniId":"eni-0a1b2c3d4e5f60718","netns":"/run/netns/cart","interface":"eni0","defaultRoute":true}`))
	f.Add("POST", "/v1/attach", []byte(`{"eniId":"a","eniId":"b"}`))
	f.Add("POST", "/v1/detach", []byte(`{"eniId":1}`))
	f.Add("POST", "/v1/explain", []byte(`{"from":"eni-1","to":"ledger","port":65536}`))
	f.Add("GET", "/v1/flows?port=0&since=yesterday&follow=maybe", []byte{})
	f.Add("PUT", "/v1/../v1/status", []byte{})
	f.Fuzz(func(t *testing.T, method, target string, body []byte) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host != "" {
			return
		}
		r, err := http.NewRequestWithContext(context.Background(), method, "http://agent"+u.RequestURI(), bytes.NewReader(body))
		if err != nil {
			return
		}
		b, w := &counting{}, httptest.NewRecorder()
		Handler(b).ServeHTTP(w, r)
		if w.Code/100 == 3 || w.Code >= 500 {
			t.Fatalf("%s %s: %d", method, target, w.Code)
		}
		if w.Code >= 400 {
			var e api.Error
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code == "" || e.Message == "" || e.Remedy == "" {
				t.Errorf("%s %s %q: %d %s", method, target, body, w.Code, w.Body)
			}
			if b.calls != 0 {
				t.Errorf("%s %s %q is refused by %d, after the agent was asked", method, target, body, w.Code)
			}
		}
	})
}

// FuzzParseFilter: a filter is written and read the same; what is wrong is named.
func FuzzParseFilter(f *testing.F) {
	f.Add("since=2026-01-02T15:04:05Z&action=accept&port=443&limit=5")
	f.Add("port=0&limit=-1")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		one, follow, err := ParseFilter(q)
		if err != nil {
			if e, ok := err.(*api.Error); !ok || e.Field == "" || e.Remedy == "" { //nolint:errorlint // it is returned as it is
				t.Errorf("%q: %v", query, err)
			}
			return
		}
		again, err := url.ParseQuery(EncodeFilter(one, follow).Encode())
		if err != nil {
			t.Fatal(err)
		}
		two, follow2, err := ParseFilter(again)
		if err != nil || follow != follow2 || !two.Since.Equal(one.Since) || !two.Until.Equal(one.Until) {
			t.Fatalf("%q: %+v, again %+v (%v)", query, one, two, err)
		}
		two.Since, two.Until = one.Since, one.Until
		if two != one {
			t.Errorf("%q: %+v, again %+v", query, one, two)
		}
	})
}
