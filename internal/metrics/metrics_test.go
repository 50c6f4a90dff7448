package metrics

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func body(t *testing.T, network, address string) string {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}}
	defer c.CloseIdleConnections()
	deadline := time.Now().Add(10 * time.Second)
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		resp, err := c.Get("http://metrics/metrics")
		if err == nil {
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%s: %v", resp.Status, err)
			}
			return string(text)
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestFiguresAreServed(t *testing.T) {
	many := &Metric{Name: "culvert_many", Type: Gauge, Help: "Many.", Labels: []string{"n"}}
	odd := &Metric{Name: "culvert_odd_total", Type: Counter, Help: "Odd.", AWS: "Odd", Labels: []string{"name"}}
	r := NewRegistry(NewSource([]*Metric{many, odd}, func(emit Emit) {
		for _, i := range rand.Perm(MaxSeries + 3) { // as maps have them
			emit(many, 1, fmt.Sprintf("%05d", i))
		}
		emit(odd, 7, "a\xff\"b\n")
	}))
	path := filepath.Join(t.TempDir(), "m.sock")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Serve(ctx, "unix:"+path, Handler(r), slog.New(slog.DiscardHandler)) }()
	text := body(t, "unix", path)
	for _, want := range []string{
		"# TYPE culvert_odd_total counter", "# HELP culvert_odd_total Odd. AWS: Odd.", `culvert_odd_total{name="a` + "\uFFFD" + `\"b\n"} 7`,
		`culvert_many{n="04999"} 1`, "culvert_metrics_left_out 3", "culvert_build_info{version=", "go_goroutines", "process_start_time_seconds",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	for i := range MaxSeries + 3 {
		if there := strings.Contains(text, fmt.Sprintf(`culvert_many{n="%05d"}`, i)); there != (i < MaxSeries) {
			t.Fatalf("figure %d is there: %v; it must be the first %d, each time", i, there, MaxSeries)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	cancel()
	<-done
}

// A port that is taken is no reason to die; once it is free, figures are served. Here it is only seen that Serve stays.
func TestServeStaysWithoutAPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	said := make(chan struct{})
	log := slog.New(slog.NewTextHandler(writer(func(b []byte) {
		if strings.Contains(string(b), "metrics are not served") {
			close(said)
		}
	}), nil))
	done := make(chan struct{})
	go func() { defer close(done); Serve(ctx, l.Addr().String(), Handler(NewRegistry()), log) }()
	<-said
	select {
	case <-done:
		t.Error("it ended")
	default:
	}
	cancel()
	<-done
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

func TestCheckAddress(t *testing.T) {
	for _, good := range []string{"", "127.0.0.1:7445", ":7445", "[::1]:0", "localhost:9", "unix:/run/culvert/m.sock"} {
		if err := CheckAddress(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"7445", "127.0.0.1", "127.0.0.1:70000", "host.example:1", "unix:m.sock", "unix:", "127.0.0.1:x",
		"unix:/" + strings.Repeat("x", 108)} {
		if err := CheckAddress(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
