package agent

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/dns"
)

// Bounds of the query log. The resolver never waits for it: what is beyond them is counted, and the next record of the VPC says how
// much that is.
const (
	// An account's questions that a node records: so many at once, and then so many a second; and bytes likewise. See also queryBudget.
	queryBurst        = 2_000
	queryRate         = 500
	queryByteBurst    = 8 << 20
	queryBytesASecond = 512 << 10
)

// queryStore is where records of questions go.
type queryStore interface {
	// AppendQueries is durable when it returns nil.
	AppendQueries([]api.QueryRecord) (flow.Written, error)
	// QueriesFrom gives the records of this boot from a position on; an error while the store is not open.
	QueriesFrom(flow.Position, func(*api.QueryRecord)) error
	// Shipped is the position before which the store has nothing that waits for the server.
	Shipped() flow.Position
	// MaxBytes is how much the store may hold, flow records too.
	MaxBytes() int64
}

// queryLog takes the resolver's questions to the node's log.
type queryLog struct {
	store queryStore
	log   *slog.Logger
	now   func() time.Time

	mu          sync.Mutex
	names       queryNames
	queued      []queuedQuery
	held        map[string]int         // by account: of queued
	part        int                    // of maxQueued, that an account may have
	partDecided int                    // of maxDecided, likewise
	rates       map[string]*queryRates // by account
	budget      queryBudget
	lost        map[uint32]uint64    // by VPC: in no record, and not declared
	all         uint64               // of all time
	alone       map[uint32]time.Time // by VPC: when what was lost got a record of its own last
	wrong       string               // why the log takes nothing; "": it does

	decided map[string]*decisions // by account
	open    *openCounts           // nil: what is open when the process is killed is not declared
	settled bool                  // what was open when the one before was killed is counted
}

// queryNames say what a question's numbers mean.
type queryNames struct {
	vpcs map[uint32]queryVPC
	enis map[queryClient]queryENI
}

type queryVPC struct {
	id, account string
	gone        time.Time // from the view; zero: it is there
}

type queryENI struct {
	id   string
	gone time.Time
}

type queryClient struct {
	vpc     uint32
	address netip.Addr
}

// queuedQuery is a question with whose it is, as it was when it came.
type queuedQuery struct {
	dns.Query
	in   queryVPC
	eni  string
	size int // in the budget, until its record has one
}

// queryRates bound what an account's questions may be.
type queryRates struct{ questions, bytes *rate.Limiter }

func (r *queryRates) allow(now time.Time, size int) bool {
	return r.bytes.TokensAt(now) >= float64(size) && r.questions.AllowN(now, 1) && r.bytes.AllowN(now, size)
}

func newQueryLog(store queryStore, log *slog.Logger) *queryLog {
	return &queryLog{store: store, log: log, now: time.Now, held: map[string]int{}, rates: map[string]*queryRates{}, lost: map[uint32]uint64{},
		decided: map[string]*decisions{}, alone: map[uint32]time.Time{}, budget: queryBudget{kept: map[string]int64{}}}
}

// take is the resolver's Config.QueryLog.
func (l *queryLog) take(q dns.Query) {
	l.mu.Lock()
	defer l.mu.Unlock()
	in, known := l.names.vpcs[q.VPC]
	if !known { // nobody knows whose it is, so nobody would take its record
		l.all++
		return
	}
	if q.Decided && l.again(&q, in.account) {
		return
	}
	if l.open != nil {
		l.open.ask(q.VPC, in)
	}
	r := l.rates[in.account]
	if r == nil {
		r = &queryRates{rate.NewLimiter(queryRate, queryBurst), rate.NewLimiter(queryBytesASecond, queryByteBurst)}
		l.rates[in.account] = r
	}
	e := queuedQuery{q, in, l.names.enis[queryClient{q.VPC, q.Client}].id, atMostBytes(&q)}
	if l.held[in.account] >= l.part || !l.budget.room(in.account, e.size) || !r.allow(q.Time, e.size) {
		l.lost[q.VPC]++
		l.all++
		return
	}
	l.queued = append(l.queued, e)
	l.held[in.account]++
	l.budget.kept[in.account] += int64(e.size)
}
