package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	// rekeyPause is the least time between two tries to change the key: the server writes an audit event for each.
	rekeyPause = 10 * time.Second
	// rekeyPauseMax is the most, while another machine has the server undo each.
	rekeyPauseMax = 10 * time.Minute
	// undoneOften tells another machine from a server that was set back to a backup, which forgets a key once.
	undoneOften = 3
)

// ownKey is the tunnel's key and what is known of it.
type ownKey struct {
	private wire.PrivateKey
	told    int64  // revision since which the server knows it, as far as it said so to this process
	next    bool   // another one is on the disk and waits to be told
	telling string // what the server is being told at the moment
	trouble error  // why the last try to change or tell it failed

	// What was told is another's doing to undo: only a node tells its key. undone is how often that came to pass in a row.
	undone   int
	undoneAt time.Time
}

// pause is how long the next try to change or tell the key has to wait.
func (k *ownKey) pause() time.Duration {
	return min(rekeyPause<<min(max(k.undone-undoneOften, 0), 10), rekeyPauseMax)
}

// undo counts that the key had to be told again.
func (k *ownKey) undo(now time.Time) {
	if now.Sub(k.undoneAt) > 2*k.pause() {
		k.undone = 0
	}
	k.undone, k.undoneAt = k.undone+1, now
}

// contested says that another machine tells a key of its own for this node, until twice the time has passed in which it would have
// done it again; nil: none does.
func (k *ownKey) contested(now time.Time) error {
	if k.undone < undoneOften || now.Sub(k.undoneAt) > 2*k.pause() {
		return nil
	}
	return fmt.Errorf("another machine uses this node's identity, with a WireGuard key of its own that replaced this one's %d times, as "+
		"after a copy of the data directory: stop the agent on one of them, remove its data directory, and join it with a token of "+
		"its own; until then the server is told of this key every %s only", k.undone, k.pause())
}

// loadKey reads the tunnel's key. A view that names the next one says that the server got it, and only its answer did not arrive.
func (a *Agent) loadKey(v *api.View) error {
	next, err := a.dir.HasNextWireKey()
	if err != nil {
		return err
	}
	if next {
		key, err := wire.LoadOrCreateKey(a.dir.NextWireKey())
		switch {
		case err != nil: // nobody can have been told of it for good: see the loop's look at the view
			a.log.Error("the next WireGuard key is not usable and is dropped", logkey.Error, err)
			next, err = false, a.dir.DropNextWireKey()
		case v != nil && v.Node.PublicKey == key.Public().String():
			next, err = false, a.dir.UseNextWireKey()
		}
		if err != nil {
			return err
		}
	}
	key, err := wire.LoadOrCreateKey(a.dir.WireKey())
	if err != nil {
		return err
	}
	if err := a.clock.load(key.Public()); err != nil {
		a.log.Error("when the WireGuard key was used is not known: a clock that went back is not noticed", logkey.Error, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.key = ownKey{private: key, next: next}
	return nil
}

func (a *Agent) wireKey() ownKey {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.key
}

// checkKey looks whether the key is one that peers know and take handshakes from, and has it changed or told if not.
func (t *turn) checkKey(have wire.State) {
	key := t.wireKey()
	t.fail("keep time of key", t.clock.look(have))
	t.fail("identity", key.contested(time.Now()))
	stepped := t.clock.stepped()
	t.fail("clock", stepped)
	known := t.view.Node.PublicKey
	// Views from the disk may be older than the key.
	unknown := t.signed.View != nil && t.view.Revision >= key.told && known != "" && known != key.telling &&
		known != key.private.Public().String()
	if stepped == nil && !key.next && !unknown {
		return
	}
	if key.trouble != nil {
		t.fail("replace WireGuard key", key.trouble)
	} else if unknown {
		t.fail("tunnel", fmt.Errorf("the server knows this node by another WireGuard key, %s: it is told of the right one", known))
	}
	select {
	case t.rekey <- struct{}{}:
	default:
	}
}

// giveKey gives the device its key. With another one come other peers: a device keeps when a peer last shook hands also when its
// own key changes, and a time that lies ahead would pass for a use of the new key, which would be changed for that again.
func (t *turn) giveKey(ctx context.Context, have *wire.State, key wire.PrivateKey) error {
	if have.PublicKey != key.Public() {
		var old wire.Change
		for _, p := range have.Peers {
			old.Remove = append(old.Remove, p.PublicKey)
		}
		// Before the key: who dies in between finds a device without peers, not one with times of the other key.
		if err := t.edges.Wire.Apply(ctx, old); err != nil {
			return err
		}
		have.Peers = nil
	}
	return t.edges.Wire.SetKey(ctx, key, t.cfg.WireGuardPort)
}

// meddled tells what somebody gave the device that keeps peers from being reached, and that its key and peers take away again.
func (t *turn) meddled(have wire.State) (out []string) {
	if have.Mark != 0 {
		out = append(out, fmt.Sprintf("the tunnel marked what it sends to peers with %#x (fwmark); taken away", have.Mark))
	}
	names := map[string]string{}
	for _, p := range t.view.Peers {
		names[p.PublicKey] = p.Name
	}
	for _, p := range have.Peers {
		if name := names[p.PublicKey.String()]; p.Preshared && name != "" {
			out = append(out, fmt.Sprintf("the tunnel had a preshared key for node %s, which that one has not; taken away", name))
		}
	}
	return out
}

// rekeying changes the key, or tells it, when the loop asks for that.
func (a *Agent) rekeying(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.rekey:
		}
		if err := a.changeKey(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("WireGuard key not replaced", logkey.Error, err)
		}
		key := a.wireKey()
		if sleep(ctx, key.pause()) != nil {
			return nil
		}
		select {
		case <-a.rekey: // the loop asks again if that is still so
		default:
		}
	}
}

// changeKey makes the next key when the clock went back, unless there is one, tells the server and takes it into use. The order
// is such that peers never wait for a key that is not on this disk. Until the server has answered the old one stays in use:
// peers can still begin with it.
func (a *Agent) changeKey(ctx context.Context) (err error) {
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.key.trouble = err
	}()
	key := a.wireKey()
	use := key.private
	stepped := a.clock.stepped()
	undone := key.told > 0 && !key.next && stepped == nil // what was told is to be told again
	if key.next = key.next || stepped != nil; key.next {
		if use, err = wire.LoadOrCreateKey(a.dir.NextWireKey()); err != nil {
			return err
		}
	}
	key.telling = use.Public().String()
	a.setKey(key)
	r, err := a.controlPlane().RotateKey(ctx, key.telling)
	if err != nil {
		key.telling = ""
		a.setKey(key)
		return err
	}
	if key.next {
		// Where this fails the next start does it: the view names this key then.
		err = a.dir.UseNextWireKey()
		a.clock.restart(use.Public())
		a.log.Warn("the WireGuard key was replaced", logkey.Key, use.Public().String(), logkey.Revision, r.Revision, logkey.Reason, stepped)
	}
	done := ownKey{private: use, told: r.Revision, undone: key.undone, undoneAt: key.undoneAt}
	if undone {
		done.undo(time.Now())
	}
	a.setKey(done)
	a.Wake()
	return err
}

func (a *Agent) setKey(k ownKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.key = k
}
