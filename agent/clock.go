package agent

import (
	"fmt"
	"sync"
	"time"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/agent/wire"
)

const (
	// markEvery is how far the wall clock goes between two notes on the disk of when the WireGuard key was used.
	markEvery = time.Minute
	// stepSlack is how far the clock may go back without a new key. A session lasts for 3 min and is renewed after 2: a node that
	// is not heard for a minute loses none.
	stepSlack = time.Minute
	// skewSlack is how far this clock and the server's may be apart without a word.
	skewSlack = time.Minute
)

// keyClock watches the wall clock for WireGuard: a handshake carries the time, and a peer takes none that is not later than the
// last one of the same key. After the clock went back (a host that boots with a wrong clock, time set by hand) peers ignore
// what this node begins until the clock is there again, which may be in years.
type keyClock struct {
	dir state.Dir
	now func() time.Time

	mu     sync.Mutex
	use    state.KeyUse // the latest that is known; the disk may have less by markEvery
	marked time.Time    // what the disk has
	behind time.Duration
}

// load reads what the disk knows of a key. What cannot be read or is about another key is nothing; the error says so.
func (k *keyClock) load(key wire.PublicKey) error {
	use, err := k.dir.LoadKeyUse()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.use, k.behind = state.KeyUse{PublicKey: key.String()}, 0
	if err == nil && use.PublicKey == k.use.PublicKey {
		k.use = use
	}
	k.marked = k.use.Latest
	return err
}

// restart begins anew with a key that nobody has seen.
func (k *keyClock) restart(key wire.PublicKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.use, k.marked, k.behind = state.KeyUse{PublicKey: key.String()}, time.Time{}, 0
}

// look compares the clock with when the key was used, of which the device's handshakes tell that came about without the agent:
// those of a device with this key only. The error says that it could not be noted; stepped is as of now.
func (k *keyClock) look(device wire.State) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now().Round(0) // the wall clock, whatever the monotonic one says
	for _, p := range device.Peers {
		if device.PublicKey.String() == k.use.PublicKey && p.LastHandshake.After(k.use.Latest) {
			k.use.Latest = p.LastHandshake
		}
	}
	k.behind = 0
	if back := k.use.Latest.Sub(now); back > stepSlack {
		k.behind = back
	}
	if now.After(k.use.Latest) {
		k.use.Latest = now
	}
	if k.use.Latest.Sub(k.marked) < markEvery {
		return nil
	}
	if err := k.dir.SaveKeyUse(k.use); err != nil {
		return err
	}
	k.marked = k.use.Latest
	return nil
}

// stepped says that the clock is behind the key's last use, and how far; nil: it is not.
func (k *keyClock) stepped() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.behind == 0 {
		return nil
	}
	return fmt.Errorf("this machine's clock went back by %s, so that peers ignore what its WireGuard key begins until %s: "+
		"the key is replaced as soon as the server answers; is the clock right?",
		k.behind.Round(time.Second), k.use.Latest.UTC().Format(time.RFC3339))
}

// skewed says that this clock and the server's are apart: issued is when the server sent something, by its clock, and heard
// when that came, by this one.
func skewed(issued, heard time.Time) error {
	apart, direction := heard.Round(0).Sub(issued), "ahead of"
	if apart < 0 {
		apart, direction = -apart, "behind"
	}
	if issued.IsZero() || apart <= skewSlack {
		return nil
	}
	return fmt.Errorf("this machine's clock is %s %s the server's: set the one that is wrong, and keep both by NTP",
		apart.Round(time.Second), direction)
}
