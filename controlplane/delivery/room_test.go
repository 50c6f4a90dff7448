package delivery

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// put delivers an object of so many bytes.
func put(t *testing.T, to Destination, name string, size int) error {
	t.Helper()
	ctx, body := newBody(t.Context(), bytes.NewReader(make([]byte, size)), int64(size), func(error) {})
	defer body.end()
	return to.Put(ctx, Object{Account: shop, Path: name, Size: int64(size)}, body)
}

// TestAccountsHaveSoMuchRoom: what is more is refused and leaves nothing; what is written anew counts once, and what is gone no more.
func TestAccountsHaveSoMuchRoom(t *testing.T) {
	dir := t.TempDir()
	open := func(destination string, dirs ...string) Destination {
		t.Helper()
		a := &Allowed{Local: dir, Dirs: dirs, Room: &Room{Dir: dir, PerAccount: 1000}}
		to, err := a.Open(&api.FlowLog{Meta: api.Meta{Account: shop}, DestinationType: api.DestinationLocal, Destination: destination})
		if err != nil {
			t.Fatal(err)
		}
		return to
	}
	to := open("logs")
	room := to.(local).room
	for range 3 {
		if err := put(t, to, "AWSLogs/a", 600); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(t, to, "AWSLogs/b", 401); err == nil || !strings.Contains(err.Error(), "all that it may have") {
		t.Errorf("more than there is room for: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, shop, "logs", "AWSLogs")); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	if err := put(t, to, "AWSLogs/b", 400); err != nil || room.Used()[shop] != 1000 {
		t.Errorf("what there is room for: %v, %v", err, room.Used())
	}
	// A server that starts anew counts what is there.
	to = open("other")
	if err := put(t, to, "c", 1); err == nil {
		t.Error("after a start nothing counts")
	}
	if err := os.Remove(filepath.Join(dir, shop, "logs", "AWSLogs", "a")); err != nil {
		t.Fatal(err)
	}
	to.(local).room.Recount()
	if err := put(t, to, "c", 600); err != nil {
		t.Errorf("after files were removed: %v", err)
	}
	// Elsewhere it is the operator's business.
	out := t.TempDir()
	if err := put(t, open(out, out), "d", 5000); err != nil {
		t.Error(err)
	}
}

// TestNearlyFullDisk: records wait in the store, and nothing is written, while what is left of the disk is for others.
func TestNearlyFullDisk(t *testing.T) {
	b := newBench(t)
	room := &Room{}
	b.to = local{dir: filepath.Join(b.dir, "out", shop, "logs"), room: room}
	b.d.cfg.Free = func() error { return room.Free(b.dir) }
	b.d.round(t.Context())
	defer b.d.endAll()
	b.add(b.flow("eni-1", time.Second))
	b.at(6 * time.Minute)
	room.Reserve = 1 << 62
	s := b.until("it is said", func(s *api.FlowLogDelivery) bool { return s.Status == api.DeliverFailed })
	if !strings.Contains(s.ErrorMessage, "nearly full") || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
	if err := put(t, b.to, "x", 1); err == nil || len(b.files()) != 0 {
		t.Errorf("a file is written all the same: %v", err)
	}
	room.Reserve = 1
	b.until("it goes on", func(s *api.FlowLogDelivery) bool {
		return s.Objects == 1 && s.Status == api.DeliverSuccess && s.ErrorMessage == ""
	})
}

// TestStateWaitsForNothing: how a delivery goes is told while its files are being written.
func TestStateWaitsForNothing(t *testing.T) {
	b := newBench(t)
	b.settled()
	defer b.d.endAll()
	a := b.d.all["fl-1"]
	a.mu.Lock()
	defer a.mu.Unlock()
	told := make(chan *api.FlowLogDelivery, 1)
	go func() {
		a.fail(errStalled)
		told <- b.d.State("fl-1")
	}()
	select {
	case s := <-told:
		if s.Status != api.DeliverFailed {
			t.Errorf("%+v", s)
		}
	case <-time.After(time.Minute):
		t.Fatal("it waits")
	}
}
