package delivery

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/flowlog"
)

// Destination is where objects go.
type Destination interface {
	// Put stores an object as a whole or not at all. It may be called again for one that is there already.
	Put(ctx context.Context, o Object, body *Body) error
}

// Config says what a Deliverer works with.
type Config struct {
	Dir       string // for its own files, one directory per flow log
	Store     *flowlog.Log
	Resources func() *api.Resources
	// Notes are where creations and edits left what has to be known of them; nil: nowhere.
	Notes Notes
	// Told is until when a node has told all its records, as far as is known.
	Told func(node string) time.Time
	// Open makes a flow log's destination, or says why that is none.
	Open func(f *api.FlowLog) (Destination, error)
	// Record notes that an object was delivered; delivery waits for it. Nil: nowhere.
	Record func(context.Context, Object) error
	// MaxLag is for how long records wait for a destination that takes nothing; the store keeps them longer.
	MaxLag func() time.Duration
	// Free refuses while the disk that Dir is on is nearly full; nil: it never is. Records wait in the store then.
	Free func() error
	Now  func() time.Time
	Log  *slog.Logger
}

// Deliverer delivers. Make it with New; Run does the work.
type Deliverer struct {
	cfg   Config
	chunk int64 // the constant, but for tests

	mu  sync.Mutex
	all map[string]*active
	ran bool // a round: what is delivered is known
}

// active is one flow log that is delivered.
type active struct {
	id   string
	bell chan struct{} // rung when there is something to send, or it may go another way now
	end  context.CancelFunc
	done chan struct{}

	mu     sync.Mutex // held while records are read and files are written
	flow   *api.FlowLog
	v      *progress
	edited []Note // edits that have not taken effect, oldest first
	noted  int64  // revision of the flow log that edited is known of

	seen  sync.Mutex          // held for moments
	state api.FlowLogDelivery // how it goes, without what failed
	// problem is of the last try; "" when it went well.
	problem string
	// unread: the problem is that records are not collected.
	unread bool
}

// show makes progress what is told of the delivery; a.mu is held.
func (a *active) show() {
	v := a.v
	a.seen.Lock()
	defer a.seen.Unlock()
	a.state = api.FlowLogDelivery{DeliveredAt: v.DeliveredAt, Objects: v.Objects, Lines: v.Lines, Waiting: len(v.Queue), LostRecords: v.Lost,
		CoveredUntil: v.Until}
}
