package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
)

// keyServer is a control plane that keeps the key it is told.
type keyServer struct {
	ControlPlane
	told []string
	err  error
}

func (k *keyServer) RotateKey(_ context.Context, publicKey string) (*api.Result, error) {
	if k.err != nil {
		return nil, k.err
	}
	k.told = append(k.told, publicKey)
	return &api.Result{Revision: int64(100 * len(k.told))}, nil
}

func (b *bench) ownKey() string { return b.agent.wireKey().private.Public().String() }

// viewOfKey is a view in which peers know the node by a key.
func viewOfKey(revision int64, key string) *api.View {
	v := testView(revision)
	v.Node.PublicKey = key
	return v
}

func keyBench(t *testing.T) (*bench, *keyServer) {
	t.Helper()
	b, cp := newBench(t), &keyServer{}
	b.cp = cp
	b.restart()
	b.hear(viewOfKey(1, b.ownKey()))
	b.mustRound()
	return b, cp
}

func (b *bench) restart() {
	b.t.Helper()
	b.stop()
	b.start()
}

func has(errs []error, text string) bool { return strings.Contains(fmt.Sprint(errs), text) }

// asked reports whether the loop asked for another key.
func (b *bench) asked() bool {
	select {
	case <-b.agent.rekey:
		return true
	default:
		return false
	}
}

func (b *bench) deviceKey() string {
	b.t.Helper()
	have, err := b.wire.Observe(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return have.PublicKey.String()
}

func TestKeyIsReplacedWhenTheClockWentBack(t *testing.T) {
	for name, restarted := range map[string]bool{"while the agent runs": false, "while it does not": true} {
		t.Run(name, func(t *testing.T) {
			b, cp := keyBench(t)
			first := b.ownKey()
			b.step = -time.Hour
			if restarted {
				b.restart()
				b.hear(viewOfKey(1, first))
			}
			cp.err = errors.New("no route")
			_, errs := b.round()
			if !has(errs, "clock went back by 1h0m0s") || !has(errs, "the key is replaced as soon as the server answers") {
				t.Fatalf("errors %v", errs)
			}
			if !b.asked() || b.agent.changeKey(t.Context()) == nil {
				t.Fatal("no key was asked for, or a server that does not answer got one")
			}
			// Nobody knows another key, so the old one stays: peers can begin with it.
			if _, errs = b.round(); !has(errs, "replace WireGuard key: no route") || b.deviceKey() != first || b.ownKey() != first {
				t.Fatalf("%v; the device has %s, was %s", errs, b.deviceKey(), first)
			}
			cp.err = nil
			if err := b.agent.changeKey(t.Context()); err != nil {
				t.Fatal(err)
			}
			second := b.ownKey()
			b.asked()
			if _, errs = b.round(); second == first || b.deviceKey() != second || has(errs, "went back") || has(errs, "another WireGuard key") {
				t.Errorf("after the change: %v, device %s, told %v", errs, b.deviceKey(), cp.told)
			}
			b.hear(viewOfKey(100, second))
			if _, errs = b.round(); has(errs, "went back") || b.asked() {
				t.Errorf("errors %v", errs)
			}
			b.restart()
			if next, err := b.dir.HasNextWireKey(); next || err != nil || b.ownKey() != second || len(cp.told) != 1 || cp.told[0] != second {
				t.Errorf("after a restart: %s of %v, next %v, %v", b.ownKey(), cp.told, next, err)
			}
		})
	}
}

// Peers that have a session go on with it for longer than a small step lasts, and a step forward hurts nobody.
func TestSmallStepsAndStepsForwardKeepTheKey(t *testing.T) {
	b, _ := keyBench(t)
	for _, step := range []time.Duration{-stepSlack / 2, time.Hour, time.Hour - stepSlack/2} {
		b.step = step
		if _, errs := b.round(); has(errs, "went back") || b.asked() {
			t.Errorf("a step to %s: %v", step, errs)
		}
	}
	b.step = 0 // and back: now peers have seen the hour that has not come yet
	if _, errs := b.round(); !has(errs, "went back") || !b.asked() {
		t.Errorf("errors %v", errs)
	}
}

// A device keeps the time of a peer's last handshake whatever its own key is: of a peer that is off, it must not pass for a use of the
// new key, or one key follows the other until the clock is there again.
func TestAKeyIsChangedOnceForAStep(t *testing.T) {
	for name, restarted := range map[string]bool{"in one run": false, "over restarts": true} {
		t.Run(name, func(t *testing.T) {
			b, cp := keyBench(t)
			peer, err := wire.NewPrivateKey()
			if err != nil {
				t.Fatal(err)
			}
			hear := func(revision int64) {
				v := viewOfKey(revision, b.ownKey())
				v.Peers = []api.ViewPeer{{Node: "node-2", Name: "b", Number: 2, PublicKey: peer.Public().String(),
					Underlay: []string{"192.0.2.2:51820"}}}
				b.hear(v)
			}
			hear(2)
			b.mustRound()
			b.wire.Touch(peer.Public(), time.Now(), netip.AddrPort{})
			b.mustRound()
			b.step = -time.Hour
			if b.round(); !b.asked() {
				t.Fatal("no key is asked for")
			}
			if err := b.agent.changeKey(t.Context()); err != nil {
				t.Fatal(err)
			}
			if restarted { // before the device has the new key
				b.restart()
			}
			for revision := range int64(3) {
				hear(100 + revision)
				if _, errs := b.round(); has(errs, "went back") || b.asked() {
					t.Errorf("after the change: %v", errs)
				}
			}
			if have, err := b.wire.Observe(t.Context()); err != nil || len(have.Peers) != 1 || b.deviceKey() != b.ownKey() {
				t.Errorf("device %+v, %v", have, err)
			}
			// Handshakes of the new key count.
			b.wire.Touch(peer.Public(), time.Now(), netip.AddrPort{})
			if _, errs := b.round(); !has(errs, "went back") || !b.asked() || len(cp.told) != 1 {
				t.Errorf("errors %v, told %v", errs, cp.told)
			}
		})
	}
}

// While a key is told, the loop may still see the device with the one before.
func TestHandshakesOfTheKeyBeforeAreNotTheNewOnes(t *testing.T) {
	k := keyClock{dir: state.Dir(t.TempDir()), now: time.Now}
	before := wire.State{PublicKey: wire.PublicKey{1}, Peers: []wire.PeerStatus{{LastHandshake: time.Now().Add(time.Hour)}}}
	k.restart(wire.PublicKey{2})
	if err := k.look(before); err != nil || k.stepped() != nil {
		t.Errorf("%v, %v", err, k.stepped())
	}
	k.restart(before.PublicKey)
	if err := k.look(before); err != nil || k.stepped() == nil {
		t.Errorf("%v, of the key's own nothing is said", err)
	}
}

// A preshared key that somebody gave a peer would keep it away for ever.
func TestMeddlingWithTheTunnelIsPutRight(t *testing.T) {
	b, _ := keyBench(t)
	peer, err := wire.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	v := viewOfKey(2, b.ownKey())
	v.Peers = []api.ViewPeer{{Node: "node-2", Name: "b", Number: 2, PublicKey: peer.Public().String(), Underlay: []string{"192.0.2.2:51820"}}}
	b.hear(v)
	b.mustRound()
	b.wire.Meddle(peer.Public(), 0xca6c)
	b.mustRound()
	if have, err := b.wire.Observe(t.Context()); err != nil || have.Mark != 0 || len(have.Peers) != 1 || have.Peers[0].Preshared {
		t.Errorf("device %+v, %v", have, err)
	}
	for _, want := range []string{"preshared key for node b", "0xca6c (fwmark)"} {
		if problems := strings.Join(b.told().Errors, "\n"); !strings.Contains(problems, want) {
			t.Errorf("status %s: nothing of %s", problems, want)
		}
	}
}

// Of two machines that undo each other's key, each says so after a while and tells its own less and less often.
func TestAKeyThatAnotherMachineReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, cp := keyBench(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.agent.rekeying(ctx) }()
		after := int64(1)
		undo := func() { // and let it be told, as far as it is its time
			b.hear(viewOfKey(100*int64(len(cp.told))+after, wire.PublicKey{9}.String()))
			b.round()
			synctest.Wait()
		}
		contested := func() bool {
			_, errs := b.round()
			return has(errs, "identity: another machine uses this node's identity")
		}
		for n := range 2 * time.Hour / rekeyPause {
			undo()
			if told := len(cp.told); told <= undoneOften && contested() || told == undoneOften+1 && !contested() {
				t.Fatalf("after %s the key was told %d times, contested %t", n*rekeyPause, told, contested())
			}
			<-time.After(rekeyPause)
		}
		if n := len(cp.told); n < 12 || n > 12+undoneOften+10 {
			t.Errorf("told %d times in two hours", n)
		}
		b.hear(viewOfKey(100*int64(len(cp.told))+2, b.ownKey()))
		if !contested() {
			t.Error("nothing is said while the other one waits for its turn")
		}
		<-time.After(2*rekeyPauseMax + time.Second)
		if contested() {
			t.Error("the other one has ended, and it is still said")
		}
		before := len(cp.told)
		after = 3
		undo() // as a server does that was set back
		if contested() || len(cp.told) != before+1 {
			t.Errorf("told %d times, then %d; contested %t", before, len(cp.told), contested())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Without the agent nobody notes anything; the device still knows when its sessions came about.
func TestHandshakesTellOfAClockThatWentBack(t *testing.T) {
	b, _ := keyBench(t)
	v := viewOfKey(2, b.ownKey())
	peer, err := wire.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	v.Peers = []api.ViewPeer{{Node: "node-2", Name: "b", Number: 2, PublicKey: peer.Public().String(), Underlay: []string{"192.0.2.2:51820"}}}
	b.hear(v)
	b.mustRound()
	b.wire.Touch(peer.Public(), time.Now().Add(time.Hour), netip.AddrPort{})
	b.restart()
	b.hear(v)
	if _, errs := b.round(); !has(errs, "clock went back") || !b.asked() {
		t.Errorf("errors %v", errs)
	}
}

// keyText is a good private key as a file holds it.
func keyText(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if _, err := wire.LoadOrCreateKey(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A change of the key may end at any step; the next start goes on.
func TestKeyChangeSurvivesCrashes(t *testing.T) {
	t.Run("the next key is made, the server knows nothing", func(t *testing.T) {
		b, cp := keyBench(t)
		next, err := wire.LoadOrCreateKey(b.dir.NextWireKey())
		if err != nil {
			t.Fatal(err)
		}
		first := b.ownKey()
		b.restart()
		b.hear(viewOfKey(1, first))
		b.mustRound()
		if !b.asked() || b.ownKey() != first {
			t.Fatal("it is forgotten")
		}
		if err := b.agent.changeKey(t.Context()); err != nil || b.ownKey() != next.Public().String() || len(cp.told) != 1 {
			t.Errorf("%v, %v", err, cp.told)
		}
	})
	t.Run("the server knows it, the answer is lost", func(t *testing.T) {
		b, cp := keyBench(t)
		next, err := wire.LoadOrCreateKey(b.dir.NextWireKey())
		if err != nil {
			t.Fatal(err)
		}
		b.hear(viewOfKey(2, next.Public().String()))
		b.round() // keeps the view
		b.restart()
		if left, _ := b.dir.HasNextWireKey(); left || b.ownKey() != next.Public().String() || len(cp.told) != 0 {
			t.Errorf("the view's key is not taken: %s, told %v", b.ownKey(), cp.told)
		}
	})
	t.Run("the next key is damaged", func(t *testing.T) {
		for name, damage := range map[string]func(path string) error{
			"cut off":            func(path string) error { return os.WriteFile(path, []byte("AAAA"), 0o600) },
			"empty":              func(path string) error { return os.WriteFile(path, nil, 0o600) },
			"readable by others": func(path string) error { return os.WriteFile(path, []byte(keyText(t)), 0o644) },
			"a directory":        func(path string) error { return os.Mkdir(path, 0o700) },
			"a pipe":             func(path string) error { return syscall.Mkfifo(path, 0o600) },
			"a disk that cannot read it": func(path string) error {
				return os.Symlink("/proc/self/mem", path) // whose first page reads as an input/output error
			},
		} {
			b, _ := keyBench(t)
			first := b.ownKey()
			if err := damage(b.dir.NextWireKey()); err != nil {
				t.Fatal(err)
			}
			b.restart()
			if left, _ := b.dir.HasNextWireKey(); left || b.ownKey() != first {
				t.Errorf("%s: key %s, next %v", name, b.ownKey(), left)
			}
		}
	})
	t.Run("the key is lost", func(t *testing.T) {
		b, cp := keyBench(t)
		first := b.ownKey()
		if err := os.Remove(b.dir.WireKey()); err != nil {
			t.Fatal(err)
		}
		b.restart()
		b.hear(viewOfKey(2, first))
		if _, errs := b.round(); !has(errs, "the server knows this node by another WireGuard key") || !b.asked() {
			t.Fatalf("errors %v", errs)
		}
		if err := b.agent.changeKey(t.Context()); err != nil || len(cp.told) != 1 || cp.told[0] != b.ownKey() || b.ownKey() == first {
			t.Errorf("%v, told %v", err, cp.told)
		}
		b.hear(viewOfKey(100, b.ownKey()))
		b.mustRound()
	})
	t.Run("what is on the disk of its use is damaged", func(t *testing.T) {
		b, _ := keyBench(t)
		if err := b.dir.Write("wireguard.used", []byte("{")); err != nil {
			t.Fatal(err)
		}
		b.restart()
		b.hear(viewOfKey(1, b.ownKey()))
		b.mustRound()
		if u, err := b.dir.LoadKeyUse(); err != nil || u.PublicKey != b.ownKey() || time.Since(u.Latest) > time.Minute {
			t.Errorf("%+v, %v", u, err)
		}
	})
}

func TestClocksApartAreReported(t *testing.T) {
	for step, want := range map[time.Duration]string{
		0: "", 30 * time.Second: "", 2 * time.Hour: "2h0m0s ahead of the server's", -2 * time.Hour: "2h0m0s behind the server's",
	} {
		b := newBench(t)
		b.step = step
		b.hear(testView(1))
		if _, errs := b.round(); want == "" && len(errs) != 0 || !has(errs, want) {
			t.Errorf("clock off by %s: %v", step, errs)
		}
		// The view came a moment ago, whatever the clock says: it is good for its whole age.
		boot := uint64(time.Hour)
		if got := b.applied.Config.ExpiresNS; got > boot+uint64(time.Hour) || got < boot+uint64(time.Hour-time.Minute) {
			t.Errorf("clock off by %s: the view expires at %s since boot", step, time.Duration(got))
		}
	}
}

// renewServer counts renewals and signs with the clock of its own.
type renewServer struct {
	ControlPlane
	t     *testing.T
	times []time.Time
}

func (r *renewServer) Renew(context.Context, api.RenewRequest) (*api.JoinResponse, error) {
	r.times = append(r.times, time.Now())
	return nil, errors.New("not now")
}

// A node whose clock says that its certificate is good asks for another one when the server says that it is not, and it does not
// sleep through a clock that is set right.
func TestRenewalFollowsTheServerAndTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, cp := newBench(t), &renewServer{t: t}
		b.cp = cp
		b.restart()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- renewal(ctx, b.agent) }()
		<-time.After(time.Hour) // of 16 h that the certificate is left alone
		if len(cp.times) != 0 {
			t.Errorf("renewed at %v", cp.times)
		}
		b.agent.box.lost(&api.Error{Code: api.CodeCertificateInvalid, Message: "it has expired"})
		<-time.After(10 * time.Minute)
		if n := len(cp.times); n < 4 || n > 11 {
			t.Errorf("%d tries within ten minutes: %v", n, cp.times)
		}
		b.agent.box.lost(errors.New("no route"))
		<-time.After(2 * time.Minute)
		cp.times = nil
		<-time.After(time.Hour)
		if len(cp.times) != 0 {
			t.Errorf("renewed at %v, though nobody asked", cp.times)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestCertificateIsNotRenewedWithoutEnd(t *testing.T) {
	b := newBench(t)
	ahead := time.Now().Add(1000 * time.Hour)
	if d := b.agent.untilRenewal(ahead, time.Time{}); d != 0 {
		t.Errorf("an old certificate is left alone for %s", d)
	}
	if d := b.agent.untilRenewal(ahead, time.Now()); d < 15*time.Hour {
		t.Errorf("a certificate that came just now is left alone for %s only, as the clock is ahead", d)
	}
	if d := b.agent.untilRenewal(ahead, time.Now().Add(-17*time.Hour)); d != 0 {
		t.Errorf("a certificate of 17 h is left alone for %s", d)
	}
}
