// Package s3store runs a server of an S3-compatible store, of another project, for tests.
package s3store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Key and Secret are the operator's.
const (
	Key    = "key"
	Secret = "of-the-operator"
)

// module is where the server is built, from the root of this one: a module of its own.
const module = "controlplane/delivery/s3server"

// startWait is for how long a server may take until it answers.
const startWait = 20 * time.Second

// Server on loopback, and a client of it that is not the one under test.
type Server struct {
	Address string
	Client  *minio.Client

	t       testing.TB
	program string
	root    string
	cmd     *exec.Cmd
}

// New starts a server until the test ends. It is built first, which takes a minute and a half the first time and is cached after that.
func New(t testing.TB) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, root: t.TempDir(), Address: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	root := filepath.Dir(s.goSays("env", "GOMOD"))
	s.program = s.goSays("tool", "-C", filepath.Join(root, filepath.FromSlash(module)), "-n", "versitygw") // builds it, and says where
	s.Client, err = minio.New(s.Address, &minio.Options{Creds: credentials.NewStaticV4(Key, Secret, ""), Region: "us-east-1",
		BucketLookup: minio.BucketLookupPath, MaxRetries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	s.Start()
	return s
}

func (s *Server) goSays(args ...string) string {
	s.t.Helper()
	c := exec.Command("go", args...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		s.t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// Start returns when the server answers.
func (s *Server) Start() {
	s.t.Helper()
	s.cmd = exec.Command(s.program, "--port", s.Address, "--access", Key, "--secret", Secret, "--quiet", "posix", s.root)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), startWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := s.Client.ListBuckets(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("the S3 server does not answer: %v", err)
		}
	}
}

// Kill ends the server at once; what it has stays for the next Start.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Signal sends the server a signal.
func (s *Server) Signal(what syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(what); err != nil {
		s.t.Fatal(err)
	}
}

// MakeBucket makes one, whose objects may be locked or not.
func (s *Server) MakeBucket(name string, lock bool) {
	s.t.Helper()
	if err := s.Client.MakeBucket(s.t.Context(), name, minio.MakeBucketOptions{ObjectLocking: lock}); err != nil {
		s.t.Fatal(err)
	}
}

// Put stores an object.
func (s *Server) Put(bucket, key string, data []byte) {
	s.t.Helper()
	if _, err := s.Client.PutObject(s.t.Context(), bucket, key, bytes.NewReader(data), int64(len(data)), minio.PutObjectOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// Objects are what is in a bucket, by key.
func (s *Server) Objects(name string) map[string][]byte {
	s.t.Helper()
	out := map[string][]byte{}
	for info := range s.Client.ListObjects(s.t.Context(), name, minio.ListObjectsOptions{Recursive: true}) {
		if info.Err != nil {
			s.t.Fatal(info.Err)
		}
		o, err := s.Client.GetObject(s.t.Context(), name, info.Key, minio.GetObjectOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		data, err := io.ReadAll(o)
		if err := errors.Join(err, o.Close()); err != nil {
			s.t.Fatal(err)
		}
		out[info.Key] = data
	}
	return out
}
