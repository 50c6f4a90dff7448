// Package bundle makes of a verifiable copy of evidence what an auditor is handed for one service and time: its records, who approved
// whom, the policies that were in force, a verification transcript, and one page that sums it up. All of it is computed from the copy
// alone, without a clock: the same copy gives the same bytes, so whoever gets the bundle can make it again and compare.
package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/report"
	"github.com/culvert-net/culvert/audit/verify"
)

// Options say what a bundle is about.
type Options struct {
	Service  string // id, or ACCOUNT/NAME; the account by name or id
	Known    bool   // there is such a service, also where the log, which may be younger, does not tell
	From, To time.Time
	Keys     string // verifier keys, as a file of culvert flows verify has them
}

// Create makes a file of the bundle. Names have slashes.
type Create func(name string) (io.WriteCloser, error)

// Names of the files that are computed; the copy's own stand beside them.
const (
	RecordsName    = "records.ndjson"    // the records of the service, as nodes wrote them
	ApprovalsName  = "approvals.json"    // who accepted or rejected which connection, and in which audit event that stands
	PoliciesName   = "policies.json"     // the service, its connections and the security groups, when they changed
	TranscriptName = "verification.txt"  // what verification says of the copy
	ReportName     = "verification.json" // the same for programs
	KeysName       = "keys.txt"          // the keys that it was made with
	SummaryName    = "summary.html"      // one page for people
	SumsName       = "SHA256SUMS"        // of all of these
)

// Summary is what the page tells.
type Summary struct {
	Service   string // id; ids with commas, where services of one name followed each other
	Name      string // ACCOUNT/NAME, as records or the log have it
	From, To  time.Time
	Records   int64
	Consumers []Consumer // most bytes first
	Refused   []Refusal
	Lost      uint64 // declared by records of the service
	Approvals []report.Decision
	Policies  []Policy
	Verified  *verify.Report
}

// Consumer is who spoke to the service from where.
type Consumer struct {
	Account, VPC, Address, Connection, Approver string
	Name                                        string // that it asked its resolver for before, where a query log tells
	Port                                        uint16
	Records                                     int64
	Packets, Bytes, ReplyPackets, ReplyBytes    uint64 // as the consumer's node counted
	First, Last                                 time.Time
}

// Refusal is what was not let in.
type Refusal struct {
	Reason, Account, Address string
	Port                     uint16
	Packets                  uint64
	First, Last              time.Time
}

// Policy is a resource as it was from a time on.
type Policy struct {
	Seq    uint64          `json:"event"` // audit event that tells it
	At     time.Time       `json:"at"`
	Actor  string          `json:"actor"`
	Name   string          `json:"actorName,omitempty"`
	Action string          `json:"action"`
	Kind   api.Kind        `json:"kind"`
	ID     string          `json:"id"`
	State  json.RawMessage `json:"state,omitempty"` // absent: it was removed
	Hash   string          `json:"hash,omitempty"`  // of the whole state, where it was cut
	// Before marks what was in force already when the time of the bundle began.
	Before bool `json:"before,omitempty"`
}

// Write computes the bundle from a copy of evidence and writes its files, beside which the copy's own belong. The error tells what cannot
// be read, or that nobody knows the service; a copy that does not verify gives a bundle that says so.
func Write(copied fs.FS, o Options, create Create) (*Summary, error) {
	keys, err := verify.ParseKeys(o.Keys)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	h := newHistory(o)
	b := &builder{o: o, create: create}
	verified := verify.Run(copied, keys, verify.Options{Each: func(_ uint64, l *leaf.Leaf) {
		if l.Type == leaf.TypeAudit {
			h.take(l.Event)
		}
	}})
	o.Service = h.asRecorded(o.Service)
	s := &Summary{Service: o.Service, From: o.From, To: o.To, Verified: verified}
	r := newRecords(o, s)
	if err := b.file(RecordsName, func(w io.Writer) error { return r.read(copied, w) }); err != nil {
		return nil, err
	}
	if s.Records == 0 && verified.OK && !o.Known && !h.knows(o.Service) {
		return nil, api.Errorf(api.CodeServiceNotFound, "service", "give an id, or ACCOUNT/NAME, of culvert service list or culvert audit list",
			"neither the audit log nor a record knows a service %s", api.Shortened(o.Service))
	}
	r.sum()
	services, name := h.services(o.Service, s.Name, r.services)
	s.Service, s.Name = strings.Join(services, ", "), name
	s.Approvals, s.Policies = h.decisions(services), h.policies(services, r.rules)
	return s, b.computed(s)
}

// approvals are those that the page has, too: of the bundle's time, and those in force when it began.
func approvals(s *Summary) report.Report {
	r := report.Approvals(s.Approvals, time.Time{}, time.Time{})
	r.Since, r.Until = s.From, s.To
	r.Notes = append(r.Notes, "A decision before since is the one in force when that time began.")
	return r
}

// builder writes files and remembers their sums.
type builder struct {
	o      Options
	create Create
	sums   []string
}

func (b *builder) computed(s *Summary) error {
	var transcript bytes.Buffer
	if err := s.Verified.Transcript(&transcript); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		fill func(io.Writer) error
	}{
		{ApprovalsName, asJSON(approvals(s))},
		{PoliciesName, asJSON(s.Policies)},
		{TranscriptName, asText(transcript.String())},
		{ReportName, asJSON(s.Verified)},
		{KeysName, asText(b.o.Keys)},
		{SummaryName, func(w io.Writer) error { return page.Execute(w, newView(s, transcript.String())) }},
	} {
		if err := b.file(f.name, f.fill); err != nil {
			return err
		}
	}
	slices.Sort(b.sums)
	return b.file(SumsName, asText(strings.Join(b.sums, "")))
}

func (b *builder) file(name string, fill func(io.Writer) error) error {
	f, err := b.create(name)
	if err != nil {
		return err
	}
	w := &summing{w: f, sum: sha256.New()}
	if err := fill(w); err != nil {
		return fmt.Errorf("%s: %w", name, closed(f, err))
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.sums = append(b.sums, hex.EncodeToString(w.sum.Sum(nil))+"  "+name+"\n")
	return nil
}

// closed closes a file after an error, which is the one that counts.
func closed(c io.Closer, err error) error {
	if more := c.Close(); more != nil {
		return fmt.Errorf("%w (and %w)", err, more)
	}
	return err
}

type summing struct {
	w   io.Writer
	sum hash.Hash
}

func (s *summing) Write(p []byte) (int, error) {
	s.sum.Write(p)
	return s.w.Write(p)
}

func asText(s string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, s)
		return err
	}
}

func asJSON(v any) func(io.Writer) error {
	return func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
}
