package tunnel

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/internal/logkey"
)

// kickDelays are the waits before each try. The first initiation after a restart is lost now and then, and the
// protocol's own retry comes after 5 s. Each try makes the answer to the one before useless, so the waits double: the
// last leaves room for a round trip of 2 s. They are drawn from half to one and a half of what stands here: two nodes that learn
// of each other at the same moment would go on sending initiations that cross, of which each makes the other one useless.
var kickDelays = []time.Duration{0, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second}

// kicker starts handshakes with the peers that have had none in this process.
type kicker struct {
	dev   *device.Device
	state func() (wire.State, error)
	bind  *gatedBind
	log   *slog.Logger
	want  atomic.Bool
	wake  chan struct{}
}

func newKicker(
	dev *device.Device, bind *gatedBind, state func() (wire.State, error), log *slog.Logger,
) *kicker {
	return &kicker{dev: dev, state: state, bind: bind, log: log, wake: make(chan struct{}, 1)}
}

// kick asks for handshakes, at once or when the sockets open.
func (k *kicker) kick() (string, error) {
	k.want.Store(true)
	select {
	case k.wake <- struct{}{}:
	default:
	}
	return "", nil
}

// run works until the context ends.
func (k *kicker) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		case <-k.bind.changed:
		}
		if k.bind.open.Load() && k.want.Swap(false) {
			k.series(ctx)
		}
	}
}

func (k *kicker) series(ctx context.Context) {
	for try, delay := range kickDelays {
		select {
		case <-ctx.Done():
			return
		case <-time.After(jitter(delay)):
		}
		if left := k.initiate(try > 0); left == 0 {
			return
		}
	}
}

// jitter draws from half to one and a half of a delay.
func jitter(d time.Duration) time.Duration {
	if d == 0 {
		return 0
	}
	return d/2 + rand.N(d)
}

// initiate sends one initiation to each peer without session and returns how many there are. A repetition within 5 s
// needs the peer's state reset.
func (k *kicker) initiate(again bool) (left int) {
	state, err := k.state()
	if err != nil {
		k.log.Warn("kick failed", logkey.Error, err)
		return 0
	}
	for _, p := range state.Peers {
		if !p.LastHandshake.IsZero() || !p.Underlay.IsValid() {
			continue
		}
		peer := k.dev.LookupPeer(device.NoisePublicKey(p.PublicKey))
		if peer == nil {
			continue
		}
		left++
		if again {
			peer.ExpireCurrentKeypairs()
		}
		_ = peer.SendHandshakeInitiation(false) // the device logs what fails
	}
	return left
}
