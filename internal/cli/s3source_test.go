package cli

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
	"github.com/culvert-net/culvert/audit/parquetfile"
	"github.com/culvert-net/culvert/internal/s3store"
)

// counting passes connections on to a server and counts the bytes that come back.
func counting(t *testing.T, to string) (address string, came *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	came = &atomic.Int64{}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			mu.Lock()
			open = append(open, in, out)
			mu.Unlock()
			all.Go(func() {
				_, _ = io.Copy(out, in)
				_ = out.Close()
			})
			all.Go(func() {
				_, _ = io.Copy(countingWriter{in, came}, out)
				_ = in.Close()
			})
		}
	})
	return l.Addr().String(), came
}

type countingWriter struct {
	io.Writer
	n *atomic.Int64
}

func (w countingWriter) Write(p []byte) (int, error) {
	w.n.Add(int64(len(p)))
	return w.Writer.Write(p)
}

// hourFile is a delivered Parquet file with lines of 50 connections, whose addresses are all over; one more is used in the rare hour only.
func hourFile(t *testing.T, hour, lines int) (key string, data []byte) {
	t.Helper()
	fields, err := format.Parse(format.All)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := parquetfile.NewWriter(&b, fields)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Date(2026, 3, 10, hour, 0, 0, 0, time.UTC)
	for i := range lines {
		end := begin.Add(time.Duration(i) * time.Hour / time.Duration(lines))
		con := i % 50
		if hour == rareHour && i%1000 == 7 {
			con = 99
		}
		r := api.FlowRecord{Node: "node-a", Boot: "b", Sequence: uint64(hour*lines + i + 1), Account: "111122223333", Interface: fmt.Sprintf("eni-%d", i%200),
			VPC: "vpc-1", LogStatus: "OK", Action: api.ActionAccept, Reason: "FORWARDED", Direction: "egress", Protocol: 6, Start: end, End: end,
			FlowID: fmt.Sprintf("%016x", uint64(i+1)*0x9e3779b97f4a7c15), Connection: fmt.Sprintf("vpce-con-%d", con), Packets: uint64(i%90 + 1),
			Bytes: uint64(i*7919%60000 + 40),
			Tuple: api.FlowTuple{SrcAddr: fmt.Sprintf("10.0.%d.%d", i%7, i%251), SrcPort: uint16(i), DstAddr: "10.0.9.9", DstPort: 443}}
		r.Translated = r.Tuple
		if err := w.Write(format.Rows(&r, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := begin.Format("AWSLogs/111122223333/vpcflowlogs/eu/2006/01/02/")
	return dir + "111122223333_vpcflowlogs_eu_fl-1_" + begin.Format("20060102T15") + "55Z_abcdef01.parquet", b.Bytes()
}

const rareHour = 5

// TestFlowsOfABucket: questions to a bucket are answered as those to a folder with the same files, by names of files, statistics and
// ranges: a selective one reads a small part of what is there.
func TestFlowsOfABucket(t *testing.T) {
	clearEnvironment(t, t.TempDir())
	store := s3store.New(t)
	store.MakeBucket("audit", false)
	folder, stored := t.TempDir(), int64(0)
	put := func(key string, data []byte) {
		store.Put("audit", "prod/"+key, data)
		path := filepath.Join(folder, filepath.FromSlash(key))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		stored += int64(len(data))
	}
	for hour := range 8 {
		put(hourFile(t, hour, 50_000))
	}
	put("AWSLogs/111122223333/vpcflowlogs/eu/2026/03/10/notes.txt", []byte("none of ours"))
	store.Put("audit", "other/AWSLogs/x.log", []byte("srcaddr\n10.9.9.9\n"))

	address, came := counting(t, store.Address)
	settings := func(name, secret string) string {
		return writeTemp(t, fmt.Sprintf("buckets:\n- {name: %s, endpoint: 'http://%s', accessKey: %s, secretKey: %s, pathStyle: true}\n", name, address,
			s3store.Key, secret))
	}
	config := settings("audit", s3store.Secret)
	for _, c := range []struct {
		args string
		most float64 // of what is stored
	}{
		{"flows query --connection vpce-con-99 --group-by srcaddr -o csv", 0.15},
		{"flows query --since 2026-03-10T05:00:00Z --until 2026-03-10T05:05:00Z --group-by dstport -o csv", 0.2},
		{"flows query --group-by connection-id,dstport -o csv", 0.75},
		{"report top-talkers --since 2026-03-10T00:00:00Z --until 2026-03-10T02:00:00Z --top 5 -o csv", 0.5},
	} {
		args := strings.Fields(c.args)
		status, want, errOut := once(t, append(args, "--from", folder)...)
		if status != 0 || strings.Count(want, "\n") < 2 {
			t.Fatalf("%s of the folder: status %d, %q, %s", c.args, status, want, errOut)
		}
		before := came.Load()
		status, have, errOut := once(t, append(args, "--from", "s3://audit/prod", "--s3-config", config)...)
		if status != 0 || have != want {
			t.Errorf("%s of the bucket: status %d, %s\nhave %s\nwant %s", c.args, status, errOut, have, want)
		}
		if read := came.Load() - before; float64(read) > c.most*float64(stored) {
			t.Errorf("%s: %d of %d bytes are read", c.args, read, stored)
		} else {
			t.Logf("%s: %d of %d bytes", c.args, read, stored)
		}
	}
	status, out, errOut := once(t, "flows", "query", "--from", "s3://audit/other/", "--s3-config", config, "--fields", "srcaddr", "-o", "csv")
	if status != 0 || !strings.Contains(out, "10.9.9.9") {
		t.Errorf("text in a bucket: status %d, %s, %s", status, out, errOut)
	}
	for _, c := range []struct{ args, want string }{
		{"--from s3://audit/prod", "--s3-config"},
		{"--from s3://other --s3-config " + config, `"other"`},
		{"--from s3:// --s3-config " + config, "s3://BUCKET"},
		{"--from s3://audit --s3-config /nowhere", "--s3-config"},
		{"--from " + folder + " --s3-config " + config, "--s3-config"},
		{"--from s3://audit/none --s3-config " + config, "no flow records"},
		{"--from s3://audit --s3-config " + settings("audit", "another"), "the keys"},
		{"--from s3://missing --s3-config " + settings("missing", s3store.Secret), "--from"},
	} {
		status, _, errOut := once(t, append([]string{"flows", "query", "--group-by", "srcaddr"}, strings.Fields(c.args)...)...)
		if status == 0 || !strings.Contains(errOut, c.want) {
			t.Errorf("%s: status %d, %q does not say %s", c.args, status, errOut, c.want)
		}
	}
}
