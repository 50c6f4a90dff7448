package delivery

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/bucket"
	"github.com/culvert-net/culvert/internal/s3store"
)

// s3 is the store of a test, and how it is configured.
type s3 struct {
	*s3store.Server
	t *testing.T
}

// buckets are the server's as an operator would configure them, read from a file.
func (s *s3) buckets(settings string) bucket.Set {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "s3.yaml")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		s.t.Fatal(err)
	}
	set, err := bucket.Load(file)
	if err != nil {
		s.t.Fatal(err)
	}
	return set
}

func (s *s3) settings(name, more string) string {
	return fmt.Sprintf("- {name: %s, endpoint: 'http://%s', accessKey: %s, secretKey: %s, pathStyle: true, accounts: ['%s']%s}\n", name, s.Address,
		s3store.Key, s3store.Secret, shop, more)
}

func inS3(place string) func(*api.FlowLog) {
	return func(f *api.FlowLog) { f.DestinationType, f.Destination = api.DestinationS3, place }
}

func (b *bench) goesTo(set bucket.Set) {
	b.t.Helper()
	to, err := (&Allowed{Buckets: set}).Open(b.r.FlowLogs["fl-1"])
	if err != nil {
		b.t.Fatal(err)
	}
	b.to = to
}

// failsSoon measures how long it takes until it is told that a destination takes nothing.
func (b *bench) failsSoon(what string) {
	b.t.Helper()
	begin := time.Now()
	b.until(what, func(s *api.FlowLogDelivery) bool { return s.Status == api.DeliverFailed && s.Waiting > 0 })
	if took := time.Since(begin); took > 50*time.Second { // 10 on a machine with nothing else to do
		b.t.Errorf("%s: told after %v", what, took)
	}
}

func TestBucket(t *testing.T) {
	t.Parallel()
	s := &s3{s3store.New(t), t}
	t.Run("locks", func(t *testing.T) { testBucketLocks(t, s) })
	t.Run("dies", func(t *testing.T) { testDeadBucket(t, s) })
}

// Files lie in the bucket byte by byte. A store that is dead, or hangs, is told of within 10 s, and gets what waited when it is back.
func testDeadBucket(t *testing.T, s *s3) {
	s.MakeBucket("logs", false)
	b := newBench(t, inS3("s3://logs/prod/"))
	b.goesTo(s.buckets("buckets:\n" + s.settings("logs", "")))
	b.settled()
	b.add(b.flow("eni-1", time.Second))
	b.at(300 * time.Second)
	b.until("the first file", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 })
	s.Kill()
	b.add(b.flow("eni-1", 301*time.Second))
	b.at(600 * time.Second)
	b.failsSoon("a dead store")
	s.Start()
	b.until("the second file", func(s *api.FlowLogDelivery) bool { return s.Objects == 2 && s.Status == api.DeliverSuccess })
	s.Signal(syscall.SIGSTOP)
	b.add(b.flow("eni-2", 601*time.Second))
	b.at(900 * time.Second)
	b.failsSoon("a store that hangs")
	s.Signal(syscall.SIGCONT)
	b.until("the third file", func(s *api.FlowLogDelivery) bool {
		return s.Objects == 3 && s.Waiting == 0 && s.Status == api.DeliverSuccess
	})

	have := s.Objects("logs")
	if len(have) != 3 || len(b.recorded) != 3 {
		t.Fatalf("%d objects, %d are recorded", len(have), len(b.recorded))
	}
	var lines []string
	for _, o := range b.recorded {
		data := have["prod/"+o.Path]
		if sumOf(data) != o.SHA256 || int64(len(data)) != o.Size {
			t.Errorf("%s: %d bytes that are others than were recorded: %+v", o.Path, len(data), o)
		}
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range strings.Split(strings.TrimSpace(string(text)), "\n")[1:] {
			if strings.HasSuffix(l, " OK") {
				lines = append(lines, strings.Fields(l)[2])
			}
		}
	}
	if !slices.Equal(lines, []string{"eni-1", "eni-1", "eni-2"}) {
		t.Errorf("%v", lines)
	}
}

// What is under lock cannot be overwritten or deleted before its time, not by whoever has the operator's keys; a delivery that is
// repeated changes nothing, and a bucket that would not lock gets nothing.
func testBucketLocks(t *testing.T, s *s3) {
	s.MakeBucket("locked", true)
	s.MakeBucket("plain", false)
	const lock = ", objectLock: {mode: COMPLIANCE, days: 30}"
	set := s.buckets("buckets:\n" + s.settings("locked", lock) + s.settings("plain", lock))
	b := newBench(t, inS3("s3://locked"))
	b.goesTo(set)
	b.settled()
	b.add(b.flow("eni-1", time.Second))
	b.at(300 * time.Second)
	b.until("the file", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 })
	have, o := s.Objects("locked"), b.recorded[0]
	data := have[o.Path]
	if len(have) != 1 || sumOf(data) != o.SHA256 {
		t.Fatalf("%v", slices.Collect(maps.Keys(have)))
	}
	info, err := s.Client.StatObject(t.Context(), "locked", o.Path, minio.StatObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mode := info.Metadata.Get("X-Amz-Object-Lock-Mode")
	until, err := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if most := 30 * 24 * time.Hour; err != nil || mode != "COMPLIANCE" || time.Until(until) < most-time.Hour || time.Until(until) > most {
		t.Fatalf("retained as %q until %v: %v", mode, until, err)
	}
	const other = "something else"
	if _, err := s.Client.PutObject(t.Context(), "locked", o.Path, strings.NewReader(other), int64(len(other)), minio.PutObjectOptions{}); err == nil {
		t.Error("an object under lock was overwritten")
	}
	if err := s.Client.RemoveObject(t.Context(), "locked", o.Path, minio.RemoveObjectOptions{GovernanceBypass: true}); err == nil {
		t.Error("an object under lock was deleted")
	}
	for range 2 { // the server died before it noted the arrival
		ctx, body := newBody(t.Context(), bytes.NewReader(data), o.Size, func(error) {})
		err := b.to.Put(ctx, o, body)
		body.end()
		if err != nil {
			t.Errorf("the same object again: %v", err)
		}
	}
	if have := s.Objects("locked"); len(have) != 1 || !bytes.Equal(have[o.Path], data) {
		t.Errorf("after all that there are %v", slices.Collect(maps.Keys(have)))
	}
	damaged := bytes.Clone(data)
	damaged[len(damaged)/2]++
	for _, c := range []struct {
		to, path, says string
		data           []byte
	}{
		{"s3://plain", o.Path, "no object lock", data},
		{"s3://locked", "damaged", "Checksum", damaged}, // by the spool's disk, or on its way
	} {
		to, err := (&Allowed{Buckets: set}).Open(&api.FlowLog{Meta: api.Meta{Account: shop}, DestinationType: api.DestinationS3, Destination: c.to})
		if err != nil {
			t.Fatal(err)
		}
		o := o
		o.Path = c.path
		ctx, body := newBody(t.Context(), bytes.NewReader(c.data), o.Size, func(error) {})
		err = to.Put(ctx, o, body)
		body.end()
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(c.says)) {
			t.Errorf("%s: %v", c.to, err)
		}
	}
	if have := s.Objects("plain"); len(have) != 0 {
		t.Errorf("without lock: %v", slices.Collect(maps.Keys(have)))
	}
	if have := s.Objects("locked"); len(have) != 1 {
		t.Errorf("damaged: %v", slices.Collect(maps.Keys(have)))
	}
}

// An account names only buckets that the operator gave it, and no place of another account in them.
func TestAllowedBuckets(t *testing.T) {
	t.Parallel()
	s := &s3{&s3store.Server{Address: "127.0.0.1:9"}, t}
	a := &Allowed{Buckets: s.buckets("buckets:\n" + s.settings("logs", ""))}
	for _, c := range []struct {
		account, to string
		ok          bool
	}{
		{shop, "s3://logs", true}, {shop, "s3://logs/", true}, {shop, "s3://logs/a/b", true}, {shop, "s3://logs/a/", true},
		{pay, "s3://logs", false}, {shop, "s3://other", false}, {shop, "s3://", false}, {shop, "logs", false}, {shop, "https://logs", false},
		{shop, "s3://logs/../x", false}, {shop, "s3://logs//x", false}, {shop, "s3://logs/x//", false}, {shop, "s3://logs//", false},
		{shop, "s3://logs/AWSLogs/" + pay, false}, {shop, "s3://logs/x/AWSLogs", false}, {shop, "", false},
	} {
		err := a.Check(&api.FlowLog{Meta: api.Meta{Account: c.account}, DestinationType: api.DestinationS3, Destination: c.to})
		var e *api.Error
		if (err == nil) != c.ok || err != nil && (!errors.As(err, &e) || e.Field != "logDestination" || e.Remedy == "") {
			t.Errorf("%s %q: %v", c.account, c.to, err)
		}
	}
	if err := (&Allowed{}).Check(&api.FlowLog{Meta: api.Meta{Account: shop}, DestinationType: api.DestinationS3, Destination: "s3://logs"}); err == nil {
		t.Error("a server without buckets allows one")
	}
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
