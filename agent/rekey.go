package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
)

// rekeyPause is the least time between two tries to change the key: the server writes an audit event for each.
const rekeyPause = 10 * time.Second

// ownKey is the tunnel's key and what is known of it.
type ownKey struct {
	private wire.PrivateKey
	told    int64  // revision since which the server knows it, as far as it said so to this process
	next    bool   // another one is on the disk and waits to be told
	telling string // what the server is being told at the moment
	trouble error  // why the last try to change or tell it failed
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
	var peers []wire.PeerStatus
	key := t.wireKey()
	if have.PublicKey == key.private.Public() {
		peers = have.Peers
	}
	t.fail("keep time of key", t.clock.look(peers))
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
		if sleep(ctx, rekeyPause) != nil {
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
	a.setKey(ownKey{private: use, told: r.Revision})
	a.Wake()
	return err
}

func (a *Agent) setKey(k ownKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.key = k
}
