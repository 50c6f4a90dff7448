package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/parquetfile"
	"github.com/culvert-net/culvert/internal/netns"
)

// Formats of lines, before and after they are edited.
const (
	firstFormat  = "${interface-id} ${srcaddr} ${srcport} ${dstaddr} ${packets} ${bytes} ${action} ${log-status}"
	secondFormat = "${log-status} ${action} ${end} ${bytes} ${packets} ${dstaddr} ${reason} ${srcport} ${srcaddr} ${interface-id}"
)

// TestRecordsOfTraffic sends what is known to the packet, and reads what becomes of it: in files, a bucket and a stream, that are edited
// meanwhile; as it comes; at a destination that dies; and where a node cannot record. Evidence of all that proves itself.
func TestRecordsOfTraffic(t *testing.T) {
	beside(t)
	m := newRecordsMesh(t)
	stream := m.receive(t, recordsStream)
	local := api.CreateFlowLogRequest{ResourceType: api.FlowLogVPC, Resource: "shop", LogFormat: firstFormat, DestinationType: api.DestinationLocal,
		FileFormat: api.FilePlainText}
	log := func(name string, change func(*api.CreateFlowLogRequest)) {
		r := local
		r.Name, r.Destination = name, name
		change(&r)
		m.flowLog(t, r)
	}
	log("text", func(*api.CreateFlowLogRequest) {})
	log("moved", func(*api.CreateFlowLogRequest) {})
	log("bucket", func(r *api.CreateFlowLogRequest) {
		r.DestinationType, r.Destination, r.FileFormat = api.DestinationS3, "s3://audit/prod", api.FileParquet
	})
	log("stream", func(r *api.CreateFlowLogRequest) {
		r.DestinationType, r.Destination, r.FileFormat = api.DestinationStream, "http://"+recordsStream+"/flows", api.FileJSON
	})
	want := m.knownTraffic(t, stream)
	if t.Run("followed", m.followed); t.Failed() {
		return
	}
	t.Run("a destination that dies", m.destinationDies)
	t.Run("strict", m.strictLog)
	t.Run("delivered", func(t *testing.T) { m.delivered(t, want, stream) })
	t.Run("proven", m.provenRecords)
}

// sumOf is whose packets are summed: those of an interface that opened flows from a port, or were refused to an address.
type sumOf struct {
	eni  string
	port string // of ACCEPT lines
	to   string // of REJECT lines
}

type packets struct{ packets, bytes uint64 }

// knownTraffic sends from several sockets in three parts, and edits the flow logs between them. What it returns is what lines must sum up to.
func (m *recordsMesh) knownTraffic(t *testing.T, stream *received) map[sumOf]packets {
	t.Helper()
	target := m.echoes(t, "peer", false)
	allowed, nobody := netip.MustParseAddrPort("10.0.1.6:9000"), netip.MustParseAddrPort("10.0.1.200:9000")
	shop, want := m.as("shop"), map[sumOf]packets{}
	sockets, ports := map[uint16]*net.UDPConn{}, map[uint16]uint64{}
	for range 5 {
		p, port := m.socket(t, "cart")
		sockets[port] = p
	}
	refused, _ := m.socket(t, "cart")
	send := func(p *net.UDPConn, to netip.AddrPort, size int) uint64 {
		if _, err := p.WriteTo(bytes.Repeat([]byte{'x'}, size), net.UDPAddrFromAddrPort(to)); err != nil {
			t.Fatal(err)
		}
		return uint64(28 + size)
	}
	add := func(k sumOf, size uint64) { w := want[k]; want[k] = packets{w.packets + 1, w.bytes + size} }
	edits := []func() error{
		func() error {
			format, second, parquet := secondFormat, "second", api.FileParquet
			_, e1 := shop.ModifyFlowLog(t.Context(), "text", api.ModifyFlowLogRequest{LogFormat: &format})
			_, e2 := shop.ModifyFlowLog(t.Context(), "moved", api.ModifyFlowLogRequest{Destination: &second, FileFormat: &parquet})
			return errors.Join(e1, e2)
		},
		func() error {
			format, json := secondFormat, api.FileJSON
			eventually(t, recordsBound, "a batch of the stream", func() error {
				if lines, err := stream.lines(); err != nil || len(lines) == 0 {
					return fmt.Errorf("%d lines, %v", len(lines), err)
				}
				return nil
			})
			_, e1 := shop.ModifyFlowLog(t.Context(), "stream", api.ModifyFlowLogRequest{LogFormat: &format})
			_, e2 := shop.ModifyFlowLog(t.Context(), "bucket", api.ModifyFlowLogRequest{FileFormat: &json})
			return errors.Join(e1, e2)
		},
		func() error { return nil },
	}
	for part, edit := range edits {
		for round := range 40 {
			for port, p := range sockets {
				add(sumOf{eni: m.enis["cart"], port: strconv.Itoa(int(port))}, send(p, allowed, 100+10*part+round))
				ports[port]++
			}
			if round%8 == 0 {
				add(sumOf{eni: m.enis["cart"], to: "10.0.1.200"}, send(refused, nobody, 50))
			}
			pause(t.Context(), 100*time.Millisecond)
			if round == 20 {
				if err := edit(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	pause(t.Context(), 3*time.Second) // what is on its way arrives
	for port, sent := range ports {
		came := target.from(port)
		if came == 0 || came > sent {
			t.Errorf("%d of %d datagrams arrived", came, sent)
		}
		want[sumOf{eni: m.enis["peer"], port: strconv.Itoa(int(port))}] = packets{packets: came}
	}
	return want
}

// received are batches of a stream by their keys: one that comes again is the same.
type received struct {
	mu      sync.Mutex
	batches map[string][]byte
	again   int
}

// receive takes a stream in the server's namespace until the test ends.
func (m *recordsMesh) receive(t *testing.T, address string) *received {
	t.Helper()
	r := &received{batches: map[string][]byte{}}
	t.Cleanup(r.listen(t, recordsPrefix+"-server", address))
	return r
}

// listen takes batches in a namespace until it is ended.
func (r *received) listen(t *testing.T, namespace, address string) (end func()) {
	t.Helper()
	var l net.Listener
	if err := netns.Do(netns.Path(namespace), func() (err error) { l, err = net.Listen("tcp", address); return err }); err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		if key := q.Header.Get("Idempotency-Key"); err == nil {
			if r.batches[key] != nil {
				r.again++
			}
			r.batches[key] = body
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	return func() { _ = s.Close(); <-done }
}

func (r *received) lines() (all []map[string]string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.batches {
		lines, errLines := jsonLines(b)
		all, err = append(all, lines...), errors.Join(err, errLines)
	}
	return all, err
}

// jsonLines are lines with the names of fields as formats have them.
func jsonLines(text []byte) (all []map[string]string, err error) {
	for line := range bytes.Lines(text) {
		var values map[string]any
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		if err := d.Decode(&values); err != nil {
			return nil, err
		}
		row := map[string]string{}
		for name, v := range values {
			if v != nil {
				row[strings.ReplaceAll(name, "_", "-")] = fmt.Sprint(v)
			}
		}
		all = append(all, row)
	}
	return all, nil
}

func textLines(text []byte) (all []map[string]string, err error) {
	var names []string
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if names == nil {
			names = words
			continue
		}
		if len(words) != len(names) {
			return nil, fmt.Errorf("line %q under %q", line, names)
		}
		row := map[string]string{}
		for i, name := range names {
			if words[i] != "-" {
				row[name] = words[i]
			}
		}
		all = append(all, row)
	}
	return all, nil
}

func parquetLines(data []byte) (all []map[string]string, err error) {
	r, err := parquetfile.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	for group := range r.Groups() {
		rows := make([]map[string]string, r.Rows(group))
		for i := range rows {
			rows[i] = map[string]string{}
		}
		for _, name := range r.Columns() {
			c, err := r.Read(group, parquetfile.Span{To: r.Rows(group)}, name)
			if err != nil {
				return nil, err
			}
			for i, row := range rows {
				field := strings.ReplaceAll(name, "_", "-")
				switch {
				case c.Missing(i):
				case c.IsInt():
					row[field] = strconv.FormatInt(c.Ints[i], 10)
				default:
					row[field] = c.Dict[c.Codes[i]]
				}
			}
		}
		all = append(all, rows...)
	}
	return all, nil
}

// linesIn are those of all files that a directory of deliveries has, by their formats.
func linesIn(dir string) (all []map[string]string, forms map[string]int, err error) {
	forms = map[string]int{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // nothing has come yet
		}
		if err != nil || !d.Type().IsRegular() || !strings.Contains(path, "AWSLogs") || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && strings.HasSuffix(path, ".gz") {
			var z *gzip.Reader
			if z, err = gzip.NewReader(bytes.NewReader(data)); err == nil {
				data, err = io.ReadAll(z)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		read, form := textLines, "text"
		switch {
		case strings.HasSuffix(path, ".json.gz"):
			read, form = jsonLines, "json"
		case strings.HasSuffix(path, ".parquet"):
			read, form = parquetLines, "parquet"
		}
		lines, err := read(data)
		all = append(all, lines...)
		forms[form]++
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
	return all, forms, err
}

// sums are what lines tell of what is wanted.
func sums(lines []map[string]string, want map[sumOf]packets) (map[sumOf]packets, error) {
	got := map[sumOf]packets{}
	for _, l := range lines {
		k := sumOf{eni: l["interface-id"], port: l["srcport"]}
		if l["action"] == api.ActionReject {
			k = sumOf{eni: l["interface-id"], to: l["dstaddr"]}
		}
		w, ok := want[k]
		if !ok || l["log-status"] != "OK" {
			continue
		}
		n, e1 := strconv.ParseUint(l["packets"], 10, 64)
		size, e2 := strconv.ParseUint(l["bytes"], 10, 64)
		if err := errors.Join(e1, e2); err != nil {
			return nil, fmt.Errorf("%v: %w", l, err)
		}
		if w.bytes == 0 {
			size = 0 // nobody counted them
		}
		got[k] = packets{got[k].packets + n, got[k].bytes + size}
	}
	return got, nil
}

// delivered waits until all destinations have each packet in exactly one line, and a line for the interface that had none.
func (m *recordsMesh) delivered(t *testing.T, want map[sumOf]packets, stream *received) {
	own := m.lab.StateDir("server", "deliveries", m.account)
	dirs := map[string][]string{"text": {filepath.Join(own, "text")}, "moved": {filepath.Join(own, "moved"), filepath.Join(own, "second")},
		"bucket": {filepath.Join(m.bucket, "audit", "prod")}}
	check := func(name string) error {
		var lines []map[string]string
		forms := map[string]int{}
		if name == "stream" {
			var err error
			if lines, err = stream.lines(); err != nil {
				return err
			}
		}
		for _, dir := range dirs[name] {
			more, found, err := linesIn(dir)
			if err != nil {
				return err
			}
			lines = append(lines, more...)
			maps.Copy(forms, found)
		}
		got, err := sums(lines, want)
		if err == nil && !maps.Equal(got, want) {
			err = fmt.Errorf("%d lines in files of %v sum up to %v, want %v", len(lines), forms, got, want)
		}
		if err != nil || name == "stream" {
			return err
		}
		silent := slices.ContainsFunc(lines, func(l map[string]string) bool {
			return l["interface-id"] == m.enis["idle"] && l["log-status"] == "NODATA"
		})
		if spoke := slices.ContainsFunc(lines, func(l map[string]string) bool {
			return l["interface-id"] == m.enis["idle"] && l["log-status"] == "OK"
		}); !silent || spoke {
			return fmt.Errorf("of %d lines none has NODATA for the interface that was silent, or one tells of traffic: %t", len(lines), spoke)
		}
		return nil
	}
	for _, name := range []string{"stream", "text", "moved", "bucket"} {
		eventually(t, 8*time.Minute, name, func() error { return check(name) }) // a window of 5 min, and a node's patience
	}
	if _, forms, err := linesIn(filepath.Join(own, "second")); err != nil || forms["parquet"] == 0 {
		t.Errorf("what was moved has %v, %v", forms, err)
	}
	lines, err := stream.lines()
	formats := map[bool]int{}
	for _, l := range lines {
		_, second := l["end"]
		formats[second]++
	}
	if err != nil || formats[false] == 0 || formats[true] == 0 {
		t.Errorf("the stream has %d lines of the first format and %d of the second, %v", formats[false], formats[true], err)
	}
	t.Logf("n=%d sums at 4 destinations are what was sent; the stream has %d lines, %d of them before the edit", len(want), len(lines), formats[false])
}

// followedBound is promised: from a flow's first packet to its line.
const followedBound = time.Second

// followed: each flow that begins is in what flows tail prints soon after.
func (m *recordsMesh) followed(t *testing.T) {
	m.echoes(t, "vault", false)
	access, err := m.lab.Env(t.Context(), "shop", "")
	if err != nil {
		t.Fatal(err)
	}
	tail, out := m.culvertCommand(access, "flows", "tail", "--eni", "calm", "-o", "json"), io.Reader(nil)
	if out, err = tail.StdoutPipe(); err == nil {
		err = tail.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tail.Process.Kill(); _ = tail.Wait() }()
	var mu sync.Mutex
	seen := map[uint16]time.Time{}
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var r api.FlowRecord
			if json.Unmarshal(lines.Bytes(), &r) != nil {
				continue
			}
			mu.Lock()
			if seen[r.Tuple.SrcPort].IsZero() {
				seen[r.Tuple.SrcPort] = time.Now()
			}
			mu.Unlock()
		}
	}()
	begin := func() (uint16, time.Time) {
		p, port := m.socket(t, "calm")
		now := time.Now()
		if _, err := p.WriteTo([]byte("new"), &net.UDPAddr{IP: net.IPv4(10, 0, 1, 7), Port: 9000}); err != nil {
			t.Fatal(err)
		}
		return port, now
	}
	has := func(port uint16) time.Time { mu.Lock(); defer mu.Unlock(); return seen[port] }
	eventually(t, 20*time.Second, "flows tail follows", func() error {
		port, _ := begin()
		for range 20 {
			if pause(t.Context(), 100*time.Millisecond); !has(port).IsZero() {
				return nil
			}
		}
		return errors.New("nothing is printed")
	})
	began := map[uint16]time.Time{}
	for range 50 {
		port, now := begin()
		began[port] = now
		pause(t.Context(), 110*time.Millisecond) // at all times of an interval
	}
	var took times
	for port, at := range began {
		eventually(t, 5*followedBound, fmt.Sprintf("a line of the flow from port %d", port), func() error {
			if has(port).IsZero() {
				return errors.New("there is none")
			}
			return nil
		})
		took = append(took, has(port).Sub(at))
	}
	t.Logf("from a flow's packet to its line in flows tail: %v (bound %v)", took, followedBound)
	if took.Max() > 5*followedBound {
		t.Errorf("a line came after %v", took.Max())
	}
}
