package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/ca"
	"github.com/culvert-net/culvert/internal/netlab"
)

// patience bounds every wait for a process.
const patience = 30 * time.Second

// output collects what a command that runs beside the test prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// running is a command line that runs beside the test.
type running struct {
	t        *testing.T
	out, err output
	cancel   context.CancelFunc
	status   chan int
}

func start(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, cancel: cancel, status: make(chan int, 1)}
	go func() { r.status <- Main(ctx, args, Streams{In: strings.NewReader(""), Out: &r.out, Err: &r.err}) }()
	t.Cleanup(cancel)
	return r
}

// stop interrupts the command, as a signal would, and returns its exit status.
func (r *running) stop() int {
	r.t.Helper()
	r.cancel()
	select {
	case s := <-r.status:
		return s
	case <-time.After(patience):
		r.t.Fatalf("it does not end:\n%s", r.err.String())
		return -1
	}
}

func (r *running) awaitFile(path string) {
	r.t.Helper()
	netlab.Eventually(r.t, patience, func() bool {
		_, err := os.Stat(path)
		return err == nil
	}, path+" is written")
}

// once runs a command line to its end.
func once(t *testing.T, args ...string) (status int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	status = Main(ctx, args, Streams{In: strings.NewReader(""), Out: &o, Err: &e})
	return status, o.String(), e.String()
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestServerProcess(t *testing.T) {
	clearEnvironment(t, t.TempDir())
	dir := t.TempDir()
	socket := "unix:" + filepath.Join(dir, "s.sock")
	ready, key := filepath.Join(dir, "run", "ready"), filepath.Join(dir, "keys", "admin")
	args := []string{"server", "--data-dir", filepath.Join(dir, "data"), "--listen", socket, "--ready-file", ready,
		"--admin-key-file", key, "--region", "here", "--log-format", "json"}
	for round := range 2 { // at the second start the key is only what it was
		r := start(t, args...)
		r.awaitFile(ready)
		if pid := readFile(t, ready); pid != fmt.Sprintln(os.Getpid()) {
			t.Errorf("ready file %q", pid)
		}
		info, err := os.Stat(key)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("key file %v, %v", info, err)
		}
		status, out, errOut := once(t, "status", "--server", socket, "--ca", filepath.Join(dir, "data", "ca.pem"),
			"--api-key", strings.TrimSpace(readFile(t, key)))
		if status != 0 || !strings.Contains(out, "region here") {
			t.Errorf("round %d: status %d\n%s%s", round, status, out, errOut)
		}
		if s := r.stop(); s != 0 {
			t.Errorf("round %d: exit status %d\n%s", round, s, r.err.String())
		}
		if _, err := os.Stat(ready); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("ready file after the end: %v", err)
		}
		if r.out.String() != "" || strings.Contains(r.err.String(), strings.TrimSpace(readFile(t, key))) {
			t.Errorf("the key shows:\n%s%s", r.out.String(), r.err.String())
		}
		if !strings.Contains(r.err.String(), `"msg":"server runs"`) {
			t.Errorf("log:\n%s", r.err.String())
		}
	}
}

func TestServerPrintsTheKeyOnce(t *testing.T) {
	clearEnvironment(t, t.TempDir())
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready")
	for round, want := range []int{1, 0} {
		r := start(t, "server", "--data-dir", filepath.Join(dir, "data"), "--listen", "unix:"+filepath.Join(dir, "s.sock"),
			"--ready-file", ready)
		r.awaitFile(ready)
		if s := r.stop(); s != 0 {
			t.Fatalf("exit status %d\n%s", s, r.err.String())
		}
		out := r.out.String()
		if n := strings.Count(out, "export CULVERT_API_KEY="); n != want || want == 1 && !strings.Contains(out, "not shown again") {
			t.Errorf("start %d:\n%s", round, out)
		}
	}
}

// The administrator's key is told once: what cannot be written is not lost.
func TestKeyThatCannotBeWrittenIsPrinted(t *testing.T) {
	var out, errOut output
	a := &app{Streams: Streams{Out: &out, Err: &errOut}}
	p := processFlags{level: "info", format: "text"}
	log, err := p.logger(&errOut)
	if err != nil {
		t.Fatal(err)
	}
	a.keepAdminKey(log, "/dev/null/nowhere", "the-secret")
	if !strings.Contains(out.String(), "the-secret") || !strings.Contains(errOut.String(), "could not be written") {
		t.Errorf("printed %q, logged %q", out.String(), errOut.String())
	}
}

// Whatever is in its file, the key replaces it, and nobody else reads it.
func TestKeyReplacesWhatIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin")
	for name, make := range map[string]func() error{
		"nothing":             func() error { return nil },
		"an old key, for all": func() error { return errors.Join(os.WriteFile(path, []byte("old"), 0o644), os.Chmod(path, 0o644)) },
		"a link":              func() error { return errors.Join(os.RemoveAll(path), os.Symlink("/dev/null", path)) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		var out output
		a := &app{Streams: Streams{Out: &out, Err: &out}}
		a.keepAdminKey(slog.New(slog.DiscardHandler), path, "the-secret")
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || string(text) != "the-secret\n" || info.Mode() != 0o600 || out.String() != "" {
			t.Errorf("%s: %q, %v, %v; printed %q", name, text, info.Mode(), err, out.String())
		}
	}
}

func TestProcessesRefuseBadFlags(t *testing.T) {
	clearEnvironment(t, t.TempDir())
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	for _, c := range []struct{ args, flag string }{
		{"server --log-level loud", "--log-level"},
		{"server --log-format xml", "--log-format"},
		{"server --view-max-age 1s", "--view-max-age"},
		{"server --flow-retention 0s", "--flow-retention"},
		{"server --admin-key-file " + dir, "--admin-key-file"},
		{"server --ready-file " + dir, "--ready-file"},
		{"agent --ready-file /proc/ready", "--ready-file"},
		{"server --admin-key-file /dev/null/key", "--admin-key-file"},
		{"server --etcd-ca x", "--etcd-endpoints"},
		{"server --etcd-endpoints 10.0.0.1:2379", "--etcd-endpoints"},
		{"server --etcd-endpoints https://a:1,http://b:1", "--etcd-endpoints"},
		{"server --etcd-endpoints http://a:1 --etcd-ca x", "--etcd-endpoints"},
		{"server --etcd-endpoints https://a:1 --etcd-cert x", "--etcd-cert"},
		{"server --etcd-endpoints https://a:1 --etcd-ca " + writeTemp(t, "no certificate"), "--etcd-ca"},
	} {
		status, out, errOut := once(t, append(strings.Fields(c.args), "--data-dir", data)...)
		if status != 1 || out != "" || !strings.Contains(errOut, c.flag+": ") || !strings.HasSuffix(strings.TrimSpace(errOut), ".") {
			t.Errorf("%s: status %d, %q", c.args, status, errOut)
		}
		if _, err := os.Stat(data); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%s: left a data directory: %v", c.args, err)
		}
	}
}

// TestTunnelMakesNoDirectories: a directory that is missing is a mistake in its name, and stays missing.
func TestTunnelMakesNoDirectories(t *testing.T) {
	if err := checkTunnelSocket(defaultTunnelSocket); err != nil {
		t.Error(err)
	}
	dir := t.TempDir()
	if err := checkTunnelSocket(filepath.Join(dir, "tunnel.sock")); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{filepath.Join(dir, "a", "tunnel.sock"), filepath.Join(writeTemp(t, ""), "tunnel.sock")} {
		var e *api.Error
		if err := checkTunnelSocket(bad); !errors.As(err, &e) || e.Field != "--tunnel-socket" || e.Remedy == "" {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was made: %v", err)
	}
}

func writeTemp(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEtcdTLS(t *testing.T) {
	keyPEM, certPEM, err := ca.Create(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, key := writeTemp(t, string(certPEM)), writeTemp(t, string(keyPEM))
	f := serverFlags{etcdCA: cert, etcdCert: cert, etcdKey: key}
	f.cfg.EtcdEndpoints = []string{"https://a:1", "https://b:1"}
	c, err := f.etcdTLS()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(certPEM)
	want, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := want.Verify(x509.VerifyOptions{Roots: c.RootCAs}); err != nil {
		t.Errorf("the CA is not a root: %v", err)
	}
	if len(c.Certificates) != 1 || c.MinVersion < tls.VersionTLS12 || c.InsecureSkipVerify {
		t.Errorf("configuration %+v", c)
	}
	plain := serverFlags{}
	plain.cfg.EtcdEndpoints = []string{"http://127.0.0.1:2379"}
	if c, err := plain.etcdTLS(); c != nil || err != nil {
		t.Errorf("without TLS: %v, %v", c, err)
	}
}
