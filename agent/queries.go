package agent

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/dns"
	"github.com/culvert-net/culvert/dns/zone"
	"github.com/culvert-net/culvert/internal/logkey"
)

// Bounds of the query log. The resolver never waits for it: what is beyond them is counted, and the next record of the VPC says how
// much that is.
const (
	// maxQueued is how many questions may wait for the disk, of an account an even part.
	maxQueued = 8_192
	// An account's questions that a node records: so many at once, and then so many a second; and bytes likewise. See also queryBudget.
	queryBurst        = 2_000
	queryRate         = 500
	queryByteBurst    = 8 << 20
	queryBytesASecond = 512 << 10
	// declareEvery is how often what was lost of a VPC gets a record of its own, where no question is recorded.
	declareEvery = 10 * time.Second
	// namesKept is how long a VPC that has left the view, and its interfaces, are known: the resolver hears of it later.
	namesKept = time.Minute
	// queryPause is how often the log is written.
	queryPause = 200 * time.Millisecond
	// maxQueryBatch is how many records are written at once.
	maxQueryBatch = 1_024
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

// know makes the numbers of a view known. Those of a VPC that is gone stay for a while, and as long as something of it is to be declared.
func (l *queryLog) know(v *api.View) {
	n := queryNames{vpcs: map[uint32]queryVPC{}, enis: map[queryClient]queryENI{}}
	for _, vpc := range v.VPCs {
		if vpc.Local {
			n.vpcs[vpc.Number] = queryVPC{id: vpc.ID, account: vpc.Account}
		}
	}
	for _, e := range v.ENIs {
		n.enis[queryClient{e.VPC, e.Address}] = queryENI{id: e.ID}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for number, vpc := range l.names.vpcs {
		if vpc.gone.IsZero() {
			vpc.gone = now
		}
		if _, known := n.vpcs[number]; !known && (l.lost[number] > 0 || now.Sub(vpc.gone) < namesKept) {
			n.vpcs[number] = vpc
		}
	}
	for client, e := range l.names.enis {
		if e.gone.IsZero() {
			e.gone = now
		}
		if _, known := n.enis[client]; !known && now.Sub(e.gone) < namesKept {
			n.enis[client] = e
		}
	}
	accounts := map[string]bool{}
	for _, vpc := range n.vpcs {
		accounts[vpc.account] = true
	}
	maps.DeleteFunc(l.rates, func(account string, _ *queryRates) bool { return !accounts[account] })
	maps.DeleteFunc(l.decided, func(account string, _ *decisions) bool { return !accounts[account] })
	maps.DeleteFunc(l.alone, func(vpc uint32, _ time.Time) bool { _, known := n.vpcs[vpc]; return !known })
	l.names, l.part, l.partDecided = n, maxQueued/max(1, len(accounts)), maxDecided/max(1, len(accounts))
	l.budget.share = l.store.MaxBytes() / queryPart / int64(max(1, len(accounts)))
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

// Lost is how many questions that are to be recorded are in no record.
func (l *queryLog) Lost() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all
}

// run writes what was asked until ctx ends, and then once more.
func (l *queryLog) run(ctx context.Context) error {
	tick := time.NewTicker(queryPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			l.mu.Lock()
			clear(l.alone)
			l.mu.Unlock()
			l.write()
			return nil
		case <-tick.C:
			l.write()
		}
	}
}

// write takes to the log what waits. What that does not take waits on.
func (l *queryLog) write() {
	if err := l.settle(); err != nil {
		l.failed(err)
		return
	}
	shipped := l.store.Shipped()
	l.mu.Lock()
	l.budget.shipped(shipped)
	l.mu.Unlock()
	for more := true; more; {
		var records []api.QueryRecord
		var taken int
		var declared map[uint32]uint64
		if records, taken, declared, more = l.next(); len(records) == 0 {
			return
		}
		w, err := l.store.AppendQueries(records)
		if l.failed(err); err != nil {
			return
		}
		l.mu.Lock()
		for i, q := range l.queued[:taken] {
			account := q.in.account
			if l.held[account]--; l.held[account] <= 0 {
				delete(l.held, account)
			}
			l.budget.wrote(account, q.size, w.Sizes[i], w.End)
		}
		l.queued = append(l.queued[:0:0], l.queued[taken:]...)
		for vpc, n := range declared {
			if l.lost[vpc] -= n; l.lost[vpc] == 0 {
				delete(l.lost, vpc)
			}
		}
		l.closed(records, w)
		l.mu.Unlock()
	}
}

// failed notes whether the store takes records, and says so when that changes.
func (l *queryLog) failed(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if text != l.wrong && err != nil {
		l.log.Error("questions cannot be recorded and wait", logkey.Error, err)
	}
	l.wrong = text
}

// settle finds out what whoever was killed has left: of what was asked, what no line tells is lost. It is an error while the store is not
// open; until then nothing is written.
func (l *queryLog) settle() error {
	if l.settled || l.open == nil {
		return nil
	}
	told := map[string]*openCount{}
	for i := range l.open.left {
		told[l.open.left[i].vpc] = &l.open.left[i]
	}
	if len(told) > 0 {
		before := slices.Clone(l.open.left)
		if err := l.store.QueriesFrom(l.open.position(), func(r *api.QueryRecord) {
			if c := told[r.VPC]; c != nil && r.Sequence > c.sequence {
				c.told, c.sequence = c.told+stands(r), r.Sequence
			}
		}); err != nil {
			copy(l.open.left, before)
			return err
		}
		l.mu.Lock()
		for i, c := range l.open.left {
			l.open.tell(c.vpc, c.told-before[i].told, c.sequence)
			l.inherit(c)
		}
		l.mu.Unlock()
	}
	l.settled, l.open.left = true, nil
	return nil
}

// inherit takes over what is lost of a VPC, to be declared.
func (l *queryLog) inherit(c openCount) {
	if c.asked <= c.told {
		return
	}
	n := c.asked - c.told
	l.all += n
	in, known := l.names.vpcs[c.number]
	if known && in.id != c.vpc { // the number is another VPC's now, and nobody takes records of one that has left
		l.open.tell(c.vpc, n, c.sequence)
		return
	}
	if !known {
		l.names.vpcs[c.number] = queryVPC{id: c.vpc, account: c.account, gone: l.now()}
	}
	l.lost[c.number] += n
}

// closed notes that questions are in records now.
func (l *queryLog) closed(records []api.QueryRecord, w flow.Written) {
	if l.open == nil {
		return
	}
	told := map[string]uint64{}
	for i := range records {
		told[records[i].VPC] += stands(&records[i])
	}
	for vpc, n := range told {
		l.open.tell(vpc, n, w.Last)
	}
	l.open.reached(w.End)
}

// stands is how many questions a record stands for: its own, if it is one, and those that it declares as lost.
func stands(r *api.QueryRecord) uint64 {
	if r.Client == "" {
		return r.Lost
	}
	return r.Lost + 1
}

// next are the records that are to be written, for how many questions they stand, and how much of each VPC they declare as lost.
func (l *queryLog) next() (records []api.QueryRecord, taken int, declared map[uint32]uint64, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken = min(len(l.queued), maxQueryBatch)
	declared = map[uint32]uint64{}
	declare := func(vpc uint32, r *api.QueryRecord) {
		if n := l.lost[vpc]; n > 0 && declared[vpc] == 0 {
			r.Lost, declared[vpc] = n, n
		}
	}
	for _, q := range l.queued[:taken] {
		r := q.record()
		declare(q.VPC, &r)
		records = append(records, r)
	}
	for vpc := range l.lost {
		if now := l.now().UTC(); declared[vpc] == 0 && now.Sub(l.alone[vpc]) >= declareEvery {
			l.alone[vpc], now = now, now.Round(0)
			r := api.QueryRecord{VPC: l.names.vpcs[vpc].id, Account: l.names.vpcs[vpc].account, Start: now, End: now}
			declare(vpc, &r)
			records = append(records, r)
		}
	}
	return records, taken, declared, taken < len(l.queued)
}

// record is a question as it is recorded.
func (q *queuedQuery) record() api.QueryRecord {
	r := api.QueryRecord{
		Account: q.in.account, VPC: q.in.id, Interface: q.eni, Client: q.Client.String(),
		Start: q.Time.UTC().Round(0), End: q.Time.Add(max(0, q.Duration)).UTC().Round(0),
		Name: q.Name, Type: dns.TypeString(q.Type), Class: dns.ClassString(q.Class), RCODE: dns.RCODEString(q.RCODE),
		Transport: api.TransportUDP, Answers: q.Answers, TTLSeconds: q.TTL, Endpoint: q.Endpoint, HostedZone: q.Hosted,
		ResolverRule: q.Rule, Upstream: q.Upstream, CacheHit: q.CacheHit, Stale: q.Stale,
	}
	if q.TCP {
		r.Transport = api.TransportTCP
	}
	for _, a := range q.Addresses {
		r.Addresses = append(r.Addresses, a.String())
	}
	if q.FirewallRule != "" {
		r.FirewallRule, r.FirewallAction = q.FirewallRule, recordedActions[q.Firewall]
	}
	return r
}

var recordedActions = map[zone.Action]api.FirewallAction{zone.Allow: api.FirewallAllow, zone.Block: api.FirewallBlock, zone.Alert: api.FirewallAlert}
