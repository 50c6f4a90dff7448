package agent

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// smallDisk puts the node's directory on a file system of a quarter of a mebibyte.
func (b *bench) smallDisk() {
	b.t.Helper()
	b.stop()
	dir := string(b.dir)
	if err := unix.Mount("culvert-test", dir, "tmpfs", 0, "size=256k,mode=0700"); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			b.t.Error(err)
		}
	})
	if err := b.dir.SaveIdentity(b.id); err != nil {
		b.t.Fatal(err)
	}
	b.start()
}

// fill leaves no room on it; what it returns makes room again.
func (b *bench) fill() (free func()) {
	b.t.Helper()
	path := b.dir.Path("filler")
	f, err := os.Create(path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		b.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			b.t.Error(err)
		}
	}
}

func (b *bench) remount(flags uintptr) {
	b.t.Helper()
	if err := unix.Mount("", string(b.dir), "", unix.MS_REMOUNT|flags, "size=256k"); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) viewOnDisk() int64 {
	b.t.Helper()
	v, err := b.dir.LoadView(b.id)
	if err != nil || v == nil {
		b.t.Fatalf("%v, %v", v, err)
	}
	return v.Revision
}

// A disk that takes nothing holds up neither a revocation nor what forwards; the node says so until it is over, and takes no
// wish that a restart would forget.
func TestDiskThatTakesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(*bench) (mend func())
		remedy string
	}{
		"full": {(*bench).fill, "make room in the file system of"},
		"read-only": {func(b *bench) func() {
			b.remount(unix.MS_RDONLY)
			return func() { b.remount(0) }
		}, "so that it can be written"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.smallDisk()
			b.hear(testView(1))
			b.attach()
			b.mustRound()
			if len(b.applied.ENIs) != 1 || b.viewOnDisk() != 1 {
				t.Fatalf("%d interfaces, view %d on the disk", len(b.applied.ENIs), b.viewOnDisk())
			}
			mend := c.spoil(b)

			revoked := testView(2)
			revoked.Names = nil
			b.hear(revoked)
			for range 2 { // said in every round, not once
				if _, errs := b.round(); !has(errs, "the view in force is not on the disk") || !has(errs, c.remedy) {
					t.Fatalf("errors %v", errs)
				}
			}
			if len(b.names) != 0 || b.applied.Revision != 2 || len(b.applied.ENIs) != 1 {
				t.Errorf("the revocation is not in force: %+v", b.applied)
			}

			b.host.AddNamespace("/run/netns/till")
			ns, err := b.spaces.Open("/run/netns/till")
			if err != nil {
				t.Fatal(err)
			}
			wish := plan.Attachment{ENI: "eni-00000000000000002", Netns: "/run/netns/till", Interface: "eni0", Namespace: ns.Namespace}
			var refused *api.Error
			if _, _, err := b.agent.setAttachment(wish, ns); !errors.As(err, &refused) || refused.Remedy == "" {
				t.Errorf("a wish that cannot be kept: %v", err)
			}
			if err := b.agent.dropAttachment(eni); !errors.As(err, &refused) {
				t.Errorf("the end of one that cannot be kept: %v", err)
			}
			b.round()
			if n := len(b.agent.attachments); n != 1 || len(b.applied.Links) != 1 {
				t.Errorf("%d wishes, %d links: something was changed", n, len(b.applied.Links))
			}

			mend()
			b.mustRound()
			if n := b.viewOnDisk(); n != 2 {
				t.Errorf("view %d on the disk once it has room", n)
			}
			b.restart()
			b.mustRound()
			if b.applied.Revision != 2 || len(b.applied.ENIs) != 1 {
				t.Errorf("after a restart: %+v", b.applied)
			}
			b.stop()
		})
	}
}
