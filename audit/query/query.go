package query

import (
	"math"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/names"
)

// Query is what is asked. Lines are what flow logs have: a record makes one for each direction.
//
// The zero value asks for all lines.
type Query struct {
	// Since and Until select records that ended at Since or later and before Until, to the second: periods that meet have no record in
	// common. Zero: no bound.
	Since, Until time.Time
	Where        []Clause // all must hold
	// Group are the fields whose values make a group. Empty: the answer is records.
	Group []string
	// Fields are those of the records of the answer, without Group.
	Fields []string
	// Lenient takes Fields that a file's format does not have for missing values. Else they are an error.
	Lenient bool
	// Limit is how many records, the newest, are given; 0 all there are.
	Limit int
	// MaxGroups is how many groups or records the answer may have before it is refused. Default 1,000,000.
	MaxGroups int
	// Late is how long after its end a record may have been delivered; files whose names tell of a later time are not read.
	// Default 24 h.
	Late time.Duration
	// Owner is the account whose flow logs' files are read where those of several are there, and FlowLog the flow log whose files
	// alone are; "": any.
	Owner, FlowLog string
	// Names has what workloads asked their resolver. With it there is one more field, [NameField].
	Names *names.Index

	once *seen // nil: no line can come twice
}

// timed tells whether the query's time has a bound.
func (q *Query) timed() bool { return !q.Since.IsZero() || !q.Until.IsZero() }

// span is the query's time: the first and the last second in which what it selects may have ended, both in it.
func (q *Query) span() (first, last int64) {
	first, last = math.MinInt64, math.MaxInt64
	if !q.Since.IsZero() {
		first = q.Since.Unix()
	}
	if !q.Until.IsZero() {
		last = q.Until.Unix() - 1
	}
	return first, last
}

// Clause holds for a row of which one of the conditions holds. Conditions on fields that a file does not have are left out, unless it
// has none of them.
type Clause []Condition

// Condition holds where the field is one of Equal; with Not, where it is none of them, or missing.
type Condition struct {
	Field string
	Equal []string
	Not   bool
}

const (
	defaultMaxGroups = 1_000_000
	defaultLate      = 24 * time.Hour
)

// Is is the clause that a field has one of these values.
func Is(field string, values ...string) Clause { return Clause{{Field: field, Equal: values}} }

// Any is the clause that one of the fields has this value.
func Any(value string, fields ...string) Clause {
	var c Clause
	for _, f := range fields {
		c = append(c, Condition{Field: f, Equal: []string{value}})
	}
	return c
}

// Fields that hold one thing in several places.
var (
	addressFields = []string{"srcaddr", "dstaddr", "pkt-srcaddr", "pkt-dstaddr", "nat-srcaddr", "nat-dstaddr"}
	portFields    = []string{"srcport", "dstport", "nat-srcport", "nat-dstport"}
	accountFields = []string{"account-id", "consumer-account", "provider-account"}
)

// Filter adds what a flow filter selects to the query; its limit, too.
func (q *Query) Filter(f api.FlowFilter) {
	q.Since, q.Until, q.Limit = f.Since, f.Until, f.Limit
	is := func(field, value string) {
		if value != "" {
			q.Where = append(q.Where, Is(field, value))
		}
	}
	is("action", f.Action)
	is("interface-id", f.Interface)
	is("endpoint-id", f.Endpoint)
	is("connection-id", f.Connection)
	is("reason", f.Reason)
	is("vpc-id", f.VPC)
	if f.Service != "" {
		q.Where = append(q.Where, Any(f.Service, "service-id", "service-name"))
	}
	if f.Address != "" {
		q.Where = append(q.Where, Any(f.Address, addressFields...))
	}
	if f.Port != 0 {
		q.Where = append(q.Where, Any(itoa(int64(f.Port)), portFields...))
	}
}

// Account selects the records that concern an account: as owner, consumer or provider. Of several accounts' flow logs its own are read.
func (q *Query) Account(id string) {
	q.Owner = id
	q.Where = append(q.Where, Any(id, accountFields...))
}

// Sums of a group. A file whose format lacks one of these fields cannot be asked for them.
type Sums struct {
	Lines   int64 `json:"lines"` // of one direction each
	Packets int64 `json:"packets"`
	Bytes   int64 `json:"bytes"`
	First   int64 `json:"first"` // Unix seconds of the first begin
	Last    int64 `json:"last"`  // and of the last end
}

func (s *Sums) add(o Sums) {
	if s.Lines == 0 || o.Lines > 0 && o.First < s.First {
		s.First = o.First
	}
	s.Last = max(s.Last, o.Last)
	s.Lines += o.Lines
	s.Packets += o.Packets
	s.Bytes += o.Bytes
}

// Group is one group of the answer: the values of the query's Group, "" for a missing one, and the sums over its records.
type Group struct {
	Key []string
	Sums
}

// Work is what was done for an answer.
type Work struct {
	Files   int   `json:"files"`   // that were read
	Skipped int   `json:"skipped"` // files left out by the time in their names
	Beside  int   `json:"beside"`  // files left out because others have what they have: delivered ones beside evidence, second copies
	Rows    int64 `json:"rows"`    // that were read
	Pruned  int64 `json:"pruned"`  // rows of Parquet left out by statistics and filters
	Matched int64 `json:"matched"`
	Again   int64 `json:"again"` // of these, lines that had come before, and were left out
}

// Answer to a query: Groups in the order of their keys, or Records, oldest end first, with the values of the query's Fields.
type Answer struct {
	Groups  []Group
	Records [][]string
	Work    Work
}
