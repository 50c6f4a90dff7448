// Package metrics shows a process's figures to Prometheus. A process lists what it has as [Metric] values, so that its
// documentation can be held against the list, and hands over the figures when it is asked.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/culvert-net/culvert/internal/logkey"
	"github.com/culvert-net/culvert/internal/version"
)

// Type of a metric.
type Type = prometheus.ValueType

// Types.
const (
	Counter = prometheus.CounterValue // only grows, until the process ends
	Gauge   = prometheus.GaugeValue
)

// Registry gathers the figures of a process.
type Registry = prometheus.Registry

// Counts and Histogram count as things happen.
type (
	Counts    = prometheus.CounterVec
	Histogram = prometheus.HistogramVec
)

// Metric is one that a process has.
type Metric struct {
	Name   string // with the prefix culvert_, as Prometheus's conventions want it
	Type   Type
	Help   string
	Labels []string
	// AWS is the CloudWatch metric that means the same, where there is one.
	AWS string
}

// Emit takes a figure; values are those of the metric's labels. The order of figures does not matter.
type Emit func(m *Metric, figure float64, values ...string)

// MaxSeries bounds the figures of one metric in one scrape. Those beyond, by the order of their labels, are left out, and counted
// in culvert_metrics_left_out: the same ones each time, or the growth of none could be told.
const MaxSeries = 5000

var leftOut = &Metric{Name: "culvert_metrics_left_out", Type: Gauge, Help: "Figures left out of this answer, over 5,000 of a metric."}

// Source has the figures of a list of metrics.
type Source struct {
	descs  map[*Metric]*prometheus.Desc
	figure func(Emit)
}

// NewSource makes one. figures is called at each scrape, by one goroutine at a time for each scrape; it emits only what is
// in the list.
func NewSource(list []*Metric, figures func(Emit)) *Source {
	s := &Source{descs: map[*Metric]*prometheus.Desc{}, figure: figures}
	for _, m := range append([]*Metric{leftOut}, list...) {
		help := m.Help
		if m.AWS != "" {
			help += " AWS: " + m.AWS + "."
		}
		s.descs[m] = prometheus.NewDesc(m.Name, help, m.Labels, nil)
	}
	return s
}

// Describe implements prometheus.Collector.
func (s *Source) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range s.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Source) Collect(ch chan<- prometheus.Metric) {
	all := map[*Metric][]series{}
	s.figure(func(m *Metric, figure float64, values ...string) {
		for i, v := range values {
			values[i] = strings.ToValidUTF8(v, "\uFFFD")
		}
		all[m] = append(all[m], series{values, figure})
	})
	left := 0
	for m, list := range all {
		if over := len(list) - MaxSeries; over > 0 {
			left += over
			slices.SortFunc(list, func(a, b series) int { return slices.Compare(a.labels, b.labels) })
			list = list[:MaxSeries]
		}
		for _, x := range list {
			ch <- prometheus.MustNewConstMetric(s.descs[m], m.Type, x.figure, x.labels...)
		}
	}
	ch <- prometheus.MustNewConstMetric(s.descs[leftOut], leftOut.Type, float64(left))
}

// series is one figure of a metric.
type series struct {
	labels []string
	figure float64
}

// Bool is 1 for true.
func Bool(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// NewCounts makes counters by labels.
func NewCounts(name, help string, labels ...string) *Counts {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// NewHistogram makes a histogram of durations in seconds, from 1 ms to 10 s.
func NewHistogram(name, help string, labels ...string) *Histogram {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help,
		Buckets: []float64{0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 10}}, labels)
}

// NewRegistry holds collectors, and what every process has: memory, CPU, files, Go's runtime and its version.
func NewRegistry(cs ...prometheus.Collector) *Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "culvert_build_info", Help: "1, with the version of the process.",
		ConstLabels: prometheus.Labels{"version": version.Version()}})
	build.Set(1)
	r.MustRegister(append([]prometheus.Collector{build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})}, cs...)...)
	return r
}

// Handler answers GET /metrics. A figure that cannot be had does not keep the others from being told.
func Handler(r *Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	return mux
}

// retry is the time between two attempts to listen.
const retry = 10 * time.Second

// Serve answers at an address, HOST:PORT or unix:/PATH (made with mode 0600), until ctx ends. Figures are not worth a
// process's life: when it cannot listen it says so once, and tries again.
func Serve(ctx context.Context, address string, h http.Handler, log *slog.Logger) {
	last := ""
	for ctx.Err() == nil {
		err := serve(ctx, address, h)
		if ctx.Err() != nil {
			return
		}
		if text := fmt.Sprint(err); text != last {
			log.Error("metrics are not served", logkey.Address, address, logkey.Error, err)
			last = text
		}
		t := time.NewTimer(retry)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
	}
}

func serve(ctx context.Context, address string, h http.Handler) error {
	l, err := listen(address)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func listen(address string) (net.Listener, error) {
	path, unixSocket := strings.CutPrefix(address, "unix:")
	if !unixSocket {
		return net.Listen("tcp", address)
	}
	if c, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: another process answers there", path), c.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// CheckAddress refuses what Serve could never listen at; "" is fine and serves nothing.
func CheckAddress(address string) error {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if !strings.HasPrefix(path, "/") || len(path) > 107 {
			return fmt.Errorf("%q is not an absolute path of at most 107 bytes", path)
		}
		return nil
	}
	if address == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not HOST:PORT", address)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("%q is not a port", port)
	}
	if host != "" && host != "localhost" && net.ParseIP(host) == nil {
		return fmt.Errorf("%q is not an address of this machine", host)
	}
	return nil
}

// Table is a list of metrics as documentation has it, in Markdown.
func Table(list []*Metric) string {
	var b strings.Builder
	b.WriteString("| metric | type | labels | what | AWS |\n|---|---|---|---|---|\n")
	for _, m := range list {
		kind := "gauge"
		if m.Type == Counter {
			kind = "counter"
		}
		labels := make([]string, len(m.Labels))
		for i, l := range m.Labels {
			labels[i] = "`" + l + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", m.Name, kind, strings.Join(labels, " "), m.Help, m.AWS)
	}
	return b.String()
}
