package delivery

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

func streaming(f *api.FlowLog) {
	f.DestinationType, f.FileFormat, f.LogFormat = api.DestinationStream, api.FileJSON, "${interface-id} ${dstport}"
	f.MaxAggregationIntervalSeconds = 1
}

// A receiver that refuses a batch gets the same one again, under the same key.
func TestPost(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got, keys []string
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		got, keys = append(got, string(body)), append(keys, r.Header.Get("Idempotency-Key"))
		if err != nil || len(got) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(receiver.Close)
	b := newBench(t, streaming)
	b.to = post{receiver.URL}
	b.settled()
	b.add(b.flow("eni-1", 2*time.Second), b.flow("eni-2", 3*time.Second))
	b.at(10 * time.Second)
	s := b.until("the batch", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 && s.Waiting == 0 })
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 2 || got[0] != got[1] || keys[0] != keys[1] || keys[0] == "" || s.Lines != 2 {
		t.Fatalf("%d posts: %q, %q, %+v", len(got), got, keys, s)
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(strings.SplitAfter(got[0], "\n")[0]), &line); err != nil || line["interface_id"] != "eni-1" || line["dstport"] != 1.0 {
		t.Errorf("%q: %v", got[0], err)
	}
}

// By TCP a batch has arrived when the receiver closes behind all of it.
func TestSocket(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	got := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		text, _ := io.ReadAll(c)
		got <- string(text)
		_ = c.Close()
	}()
	b := newBench(t, streaming)
	b.to = socket{address: l.Addr().String()}
	b.settled()
	b.add(b.flow("eni-1", 2*time.Second))
	b.at(10 * time.Second)
	b.until("the batch", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 })
	if text := <-got; text != `{"interface_id":"eni-1","dstport":1}`+"\n" {
		t.Errorf("%q", text)
	}
}

// Only what the operator allows is a destination, and links lead out of none.
func TestAllowed(t *testing.T) {
	t.Parallel()
	a := &Allowed{Local: "/data/deliveries", Dirs: []string{"/srv/logs"}, Streams: []string{"siem.example.com:8088", "siem.example.com:443"}}
	for _, c := range []struct {
		kind api.DestinationType
		to   string
		ok   bool
	}{
		{api.DestinationLocal, "logs", true}, {api.DestinationLocal, "a/b", true}, {api.DestinationLocal, "", false}, {api.DestinationLocal, ".", false},
		{api.DestinationLocal, "../x", false}, {api.DestinationLocal, "a/../../x", false}, {api.DestinationLocal, "a/", false},
		{api.DestinationLocal, "/srv/logs", true}, {api.DestinationLocal, "/srv/logs/x", true}, {api.DestinationLocal, "/srv/logs/../x", false},
		{api.DestinationLocal, "/srv/logsx", false}, {api.DestinationLocal, "/", false},
		{api.DestinationStream, "https://siem.example.com/x", true}, {api.DestinationStream, "http://siem.example.com:8088/x?a=b", true},
		{api.DestinationStream, "tls://siem.example.com:8088", true}, {api.DestinationStream, "tcp://siem.example.com:8088", true},
		{api.DestinationStream, "tcp://siem.example.com:8088/x", false}, {api.DestinationStream, "tcp://siem.example.com", false},
		{api.DestinationStream, "http://siem.example.com/", false}, {api.DestinationStream, "https://u:p@siem.example.com/", false},
		{api.DestinationStream, "https://other.example.com/", false}, {api.DestinationStream, "file:///etc/passwd", false}, {api.DestinationStream, "", false},
	} {
		err := a.Check(&api.FlowLog{Meta: api.Meta{Account: shop}, DestinationType: c.kind, Destination: c.to})
		var e *api.Error
		if (err == nil) != c.ok || err != nil && (!errors.As(err, &e) || e.Field != "logDestination" || e.Remedy == "") {
			t.Errorf("%s %q: %v", c.kind, c.to, err)
		}
	}
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "AWSLogs")); err != nil {
		t.Fatal(err)
	}
	_, body := newBody(t.Context(), strings.NewReader("x"), 1, func(error) {})
	defer body.end()
	if err := (local{dir: dir}).Put(t.Context(), Object{Path: "AWSLogs/1/file"}, body); err == nil {
		t.Error("a link led out of the destination")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}
