package controlplane

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
)

// kept is a server's data directory as it leaves it, with the store beside it in memory.
type kept struct {
	dir, node string
	ca        []byte
	mem       *store.Mem
}

func newKept(t *testing.T) *kept {
	t.Helper()
	k := &kept{mem: store.NewMem()}
	l := startLab(t, func(c *Config) { c.Store, k.dir = k.mem, c.DataDir })
	h := l.host("host-a")
	k.node = h.id
	views, _ := h.views(t)
	until(t, views, "a view", anyView)
	must(h.SendFlows(l.ctx(), []api.FlowEnvelope{record(h.id, 1, api.FlowRecord{})}))(t)
	l.s.hub.mu.Lock()
	l.s.hub.life(h.id).related.dirty = true // as by an interface, which this node has none of
	l.s.hub.mu.Unlock()
	if err := l.s.saveRelated(l.ctx()); err != nil {
		t.Fatal(err)
	}
	l.stop()
	k.ca = must(os.ReadFile(filepath.Join(k.dir, "ca.pem")))(t)
	return k
}

// start runs a server there until it is ready; the error is why it is not.
func (k *kept) start(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ready := false
	err := New(Config{DataDir: k.dir, Listen: []string{"unix:" + filepath.Join(k.dir, "s.sock")}, Store: k.mem,
		Ready: func(Info) { ready = true; cancel() }}).Run(ctx)
	if ready {
		return nil
	}
	return errors.Join(errors.New("not ready"), err)
}

// spoiled are what can become of a file.
func spoiled() map[string]func(path string) error {
	replace := func(make func(path string) error) func(string) error {
		return func(path string) error { return errors.Join(os.RemoveAll(path), make(path)) }
	}
	return map[string]func(string) error{
		"empty":               func(path string) error { return os.Truncate(path, 0) },
		"cut off":             func(path string) error { return os.Truncate(path, 20) },
		"zeroes":              func(path string) error { return os.WriteFile(path, make([]byte, 300), 0o600) },
		"other JSON":          func(path string) error { return os.WriteFile(path, []byte("[1, 2]"), 0o600) },
		"for others to write": func(path string) error { return os.Chmod(path, 0o666) },
		"another user's":      func(path string) error { return os.Chown(path, 65534, 65534) },
		"a pipe":              replace(func(path string) error { return syscall.Mkfifo(path, 0o600) }),
		"a disk that cannot read it": replace(func(path string) error {
			return os.Symlink("/proc/self/mem", path) // whose first page reads as an input/output error
		}),
		"a directory": replace(func(path string) error { return os.Mkdir(path, 0o700) }),
	}
}

// What the store has the server writes anew; what only its file has it names, and says what is lost without it.
func TestSpoiledFilesOfTheServer(t *testing.T) {
	k := newKept(t)
	related := filepath.Join(k.dir, "related", k.node+".json")
	good := must(os.ReadFile(related))(t)
	for what, spoil := range spoiled() {
		path := filepath.Join(k.dir, "ca.pem")
		if err := spoil(path); err != nil {
			t.Fatal(err)
		}
		err := k.start(t)
		if what == "a directory" {
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove it") {
				t.Errorf("ca.pem: %s: %v", what, err)
			}
			err = errors.Join(os.Remove(path), k.start(t))
		}
		info, errStat := os.Lstat(path)
		if errors.Join(err, errStat) != nil {
			t.Errorf("ca.pem: %s: %v, %v", what, err, errStat)
			continue
		}
		if now := must(os.ReadFile(path))(t); string(now) != string(k.ca) || info.Mode() != 0o644 ||
			int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
			t.Errorf("ca.pem: %s: it is %v, %q", what, info.Mode(), now)
		}

		if err := spoil(related); err != nil {
			t.Fatal(err)
		}
		if err := k.start(t); err == nil || !strings.Contains(err.Error(), related) || !strings.Contains(err.Error(), "remove the file") {
			t.Errorf("related: %s: %v", what, err)
		}
		if err := os.RemoveAll(related); err != nil {
			t.Fatal(err)
		}
		if err := k.start(t); err != nil {
			t.Errorf("related: %s, and removed: %v", what, err)
		}
		if err := os.WriteFile(related, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.start(t); err != nil {
		t.Errorf("all as it was: %v", err)
	}
}

// A day of flow records that cannot be read, and a directory of another user, end the server with a sentence.
func TestDirectoriesOfTheServer(t *testing.T) {
	k := newKept(t)
	days := must(filepath.Glob(filepath.Join(k.dir, "flows", "*.ndjson")))(t)
	if len(days) != 1 {
		t.Fatal(days)
	}
	if err := errors.Join(os.Remove(days[0]), os.Symlink("/proc/self/mem", days[0])); err != nil {
		t.Fatal(err)
	}
	if err := k.start(t); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "move "+days[0]+" elsewhere") {
		t.Errorf("a day that cannot be read: %v", err)
	}
	if err := errors.Join(os.Remove(days[0]), os.Chown(k.dir, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	if err := k.start(t); err == nil || !strings.Contains(err.Error(), "belongs to the user 65534") {
		t.Errorf("another user's directory: %v", err)
	}
	if err := errors.Join(os.Chown(k.dir, 0, 0), os.Chmod(k.dir, 0o777), k.start(t)); err != nil {
		t.Fatal(err)
	}
	if info := must(os.Stat(k.dir))(t); info.Mode().Perm() != 0o700 {
		t.Errorf("a directory for all stays %v", info.Mode())
	}
}
