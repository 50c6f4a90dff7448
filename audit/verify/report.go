package verify

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// MaxFindings bounds the findings that a report lists. Others are counted.
const MaxFindings = 1000

// Finding is something that is not as it should be.
type Finding struct {
	File    string    `json:"file,omitempty"` // below the directory
	Line    int       `json:"line,omitempty"` // in it, from 1
	Leaf    *uint64   `json:"leaf,omitempty"` // index in the log
	Node    string    `json:"node,omitempty"`
	Boot    string    `json:"boot,omitempty"`
	Segment uint64    `json:"segment,omitempty"` // number
	At      time.Time `json:"at,omitzero"`
	What    string    `json:"what"`

	early bool // of the log itself: before all segments
}

func (f Finding) String() string {
	s := ""
	add := func(format string, args ...any) { s += fmt.Sprintf(format, args...) }
	if f.File != "" {
		add("%s", f.File)
		if f.Line > 0 {
			add(":%d", f.Line)
		}
		add(": ")
	}
	if f.Node != "" {
		add("node %s", f.Node)
		if f.Boot != "" {
			add(", boot %s", f.Boot)
		}
		if f.Segment > 0 {
			add(", segment %d", f.Segment)
		}
		add(": ")
	}
	if f.Leaf != nil {
		add("leaf %d: ", *f.Leaf)
	}
	return s + f.What
}

// Report is what was checked and what was found.
type Report struct {
	OK       bool      `json:"ok"`
	Findings []Finding `json:"findings,omitempty"` // the first bad thing first
	More     int       `json:"more,omitempty"`     // findings that are not listed

	Origin    string     `json:"origin"`
	Size      uint64     `json:"size"` // of the log
	Root      string     `json:"root"` // base64
	Witnesses []Cosigned `json:"witnesses,omitempty"`

	Leaves      map[string]int `json:"leaves"` // by type
	From        time.Time      `json:"from,omitzero"`
	To          time.Time      `json:"to,omitzero"`
	Checkpoints int            `json:"checkpoints"` // of the past, kept in the log
	Away        []Away         `json:"away,omitempty"`

	LogOnly bool      `json:"logOnly,omitempty"` // no segments and no deliveries were judged
	Since   time.Time `json:"since,omitzero"`    // what was asked for
	Until   time.Time `json:"until,omitzero"`
	Node    string    `json:"node,omitempty"`
	Beyond  string    `json:"beyond,omitempty"` // what shows that the log is not cut off: up to when, or up to which size

	Copy      *Manifest      `json:"copy,omitempty"` // what the directory says that it is a part of
	Nodes     []NodeReport   `json:"nodes,omitempty"`
	Silences  []Silence      `json:"silences,omitempty"`
	Dates     []Dates        `json:"dates,omitempty"`
	Slack     []Slack        `json:"slack,omitempty"`
	Claims    []Claims       `json:"claims,omitempty"`
	Segments  int            `json:"segments"`
	Records   int            `json:"records"`
	Disposed  int            `json:"disposed"` // segments
	Disposals []Disposal     `json:"disposals,omitempty"`
	Keys      []NodeKey      `json:"nodeKeys,omitempty"`
	Elsewhere int            `json:"elsewhere"` // segments that are in the log and not meant to be here
	Balanced  int            `json:"balanced"`  // full seals whose counters were compared
	Declared  []DeclaredLoss `json:"declared,omitempty"`

	FirstEvent uint64 `json:"firstEvent,omitempty"` // of the audit log
	LastEvent  uint64 `json:"lastEvent,omitempty"`

	Connections []Connection `json:"connections,omitempty"`
	Objects     int          `json:"objects"`       // delivered files that are here
	ObjectsGone int          `json:"objectsAbroad"` // that the log knows and that are not
	Ignored     int          `json:"ignored"`       // files of the log's directory that prove nothing
	Notes       []string     `json:"notes,omitempty"`
}

// Cosigned is a witness and what it has signed of the past.
type Cosigned struct {
	Name        string    `json:"name"`
	At          time.Time `json:"at,omitzero"` // of its signature under the newest checkpoint
	Checkpoints int       `json:"checkpoints"`
}

// Away is a time in which the server did not run.
type Away struct {
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	Clean bool      `json:"clean"` // it was stopped; else it died
	// Reason is why its log has nothing of that time, of a server that ran on.
	Reason string `json:"reason,omitempty"`
}

// Disposal is what the server said that it removed.
type Disposal struct {
	At     time.Time `json:"at"`
	ID     string    `json:"id"`
	Class  string    `json:"class"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
}

// NodeKey is a key whose signatures the log gives to a node from a leaf on.
type NodeKey struct {
	Node string    `json:"node"`
	ID   string    `json:"id"`
	Leaf uint64    `json:"leaf"`
	At   time.Time `json:"at"`
	// Vouched: a certificate of the CA that the auditor believes says so, too; else it is the log's word alone.
	Vouched bool `json:"vouched"`

	why string // it is not
}

// NodeReport is what was checked of a node.
type NodeReport struct {
	Node     string    `json:"node"`
	Boots    int       `json:"boots"`
	Segments int       `json:"segments"`
	Records  int       `json:"records"`
	From     time.Time `json:"from,omitzero"`
	To       time.Time `json:"to,omitzero"`
}

// DeclaredLoss is what a node said itself that it lost.
type DeclaredLoss struct {
	Node    string `json:"node"`
	Cause   string `json:"cause"`
	Times   int    `json:"times"`
	Packets uint64 `json:"packets"`
	Records uint64 `json:"records"`
	Seals   uint64 `json:"seals"`
}

// Connection is what both ends say of one, in packets of both directions.
type Connection struct {
	Connection string `json:"connection"`
	Sent       uint64 `json:"sent"`
	Received   uint64 `json:"received"`
	// Lost is what was surely sent and not received. Slack bounds what more may be: packets told of times of which not both ends have told
	// all here, as at the end of a copy.
	Lost  uint64 `json:"lost"`
	Slack uint64 `json:"slack"`
	// Tunnel is what the tunnels between its nodes lost at most, of all that passed through them. Measured: all of them count.
	Tunnel   uint64 `json:"tunnel"`
	Measured bool   `json:"measured"`
	// Excused is what its nodes declare as lost, and refused where it arrived, at most: no difference of so many is a finding.
	Excused  uint64   `json:"excused"`
	Compared bool     `json:"compared"` // all of it
	Why      []string `json:"why,omitempty"`
}

// First is the first bad thing.
func (r *Report) First() *Finding {
	if len(r.Findings) == 0 {
		return nil
	}
	return &r.Findings[0]
}

func (v *verifier) find(f Finding) { v.findings = append(v.findings, f) }

// logBad is about the log itself.
func (v *verifier) logBad(file, format string, args ...any) {
	v.find(Finding{File: file, What: fmt.Sprintf(format, args...), early: true})
}

// leafBad is about one leaf.
func (v *verifier) leafBad(index uint64, at time.Time, format string, args ...any) {
	v.find(Finding{Leaf: &index, At: at, What: fmt.Sprintf(format, args...)})
}

// finish orders the findings: of the log first, then by time, node and place.
func (v *verifier) finish() {
	slices.SortStableFunc(v.findings, func(a, b Finding) int {
		if a.early != b.early {
			if a.early {
				return -1
			}
			return 1
		}
		if a.early {
			return 0
		}
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Boot, b.Boot), cmp.Compare(a.Segment, b.Segment),
			cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	r := v.report
	r.OK = len(v.findings) == 0
	r.Findings = v.findings
	if len(r.Findings) > MaxFindings {
		r.More = len(r.Findings) - MaxFindings
		r.Findings = r.Findings[:MaxFindings]
	}
}
