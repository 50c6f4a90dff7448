package bundle

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/names"
)

// maxLine bounds a line of a segment, in bytes; seals of nodes with many interfaces are the longest.
const maxLine = 16 << 20

// maxAnswers bounds what is held of answers to questions, some hundred bytes each; flows behind it have no name.
const maxAnswers = 4_000_000

// maxPeers bounds how many consumers and refusals the page tells apart; the records have all.
const maxPeers = 100_000

// records gathers those of the service.
type records struct {
	o         Options
	s         *Summary
	rules     map[string]bool // that decided
	services  map[string]bool // ids that records have
	consumers map[consumerKey]*Consumer
	refused   map[refusalKey]*Refusal
	names     *names.Index
}

type consumerKey struct {
	connection, vpc, address string
	port                     uint16
}

type refusalKey struct {
	reason, account, address string
	port                     uint16
}

func newRecords(o Options, s *Summary) *records {
	return &records{o: o, s: s, rules: map[string]bool{}, services: map[string]bool{},
		consumers: map[consumerKey]*Consumer{}, refused: map[refusalKey]*Refusal{}, names: names.New(nil)}
}

// read goes through all segments, first for what workloads asked their resolvers, and copies the lines of the service.
func (r *records) read(copied fs.FS, w io.Writer) error {
	asked := names.NewBuilder()
	err := eachLine(copied, func(line []byte) error {
		var l api.QueryLine
		if bytes.HasPrefix(line, []byte(`{"query":`)) && json.Unmarshal(line, &l) == nil && asked.Len() < maxAnswers {
			asked.Add(&l.Query)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.names = asked.Index()
	return eachLine(copied, func(line []byte) error { return r.line(line, w) })
}

// eachLine calls yield for each line of all segments, in the order of their paths. Of an hour that is there packed and plain the plain
// file counts, as for verification.
func eachLine(copied fs.FS, yield func(line []byte) error) error {
	err := fs.WalkDir(copied, "segments", func(path string, d fs.DirEntry, err error) error {
		plain, packed := strings.CutSuffix(path, ".gz")
		if err != nil || d.IsDir() || !strings.HasSuffix(plain, ".ndjson") {
			return err
		}
		if packed {
			if _, err := fs.Stat(copied, plain); err == nil {
				return nil
			}
		}
		if err := fileLines(copied, path, yield); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no segment of the time
	}
	return err
}

func fileLines(copied fs.FS, path string, yield func(line []byte) error) (err error) {
	f, err := copied.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var in io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if in, err = gzip.NewReader(f); err != nil {
			return err
		}
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for lines.Scan() {
		if err := yield(lines.Bytes()); err != nil {
			return err
		}
	}
	return lines.Err()
}

// line copies a record of the service. What is no record is a seal or a query, or damage, which verification tells.
func (r *records) line(line []byte, w io.Writer) error {
	if !bytes.Contains(line, []byte(`"serviceId":`)) {
		return nil
	}
	var rec api.FlowRecord
	if json.Unmarshal(line, &rec) != nil || rec.Service == "" || rec.Service != r.o.Service && rec.ServiceName != r.o.Service {
		return nil
	}
	if !r.o.From.IsZero() && rec.End.Before(r.o.From) || !r.o.To.IsZero() && !rec.End.Before(r.o.To) {
		return nil
	}
	r.s.Records++
	r.s.Lost += rec.Lost
	r.s.Name = cmp.Or(rec.ServiceName, r.s.Name)
	r.services[rec.Service] = true
	if rec.Rule != "" {
		r.rules[rec.Rule] = true
	}
	r.count(&rec)
	if _, err := w.Write(line); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func (r *records) count(rec *api.FlowRecord) {
	switch {
	case rec.LogStatus != "OK":
	case rec.Action == api.ActionReject:
		k := refusalKey{rec.Reason, cmp.Or(rec.ConsumerAccount, rec.Account), rec.Tuple.SrcAddr, rec.Tuple.DstPort}
		x := r.refused[k]
		if x == nil && len(r.refused) >= maxPeers {
			k.address, k.port = "others", 0
			x = r.refused[k]
		}
		if x == nil {
			x = &Refusal{Reason: k.reason, Account: k.account, Address: k.address, Port: k.port, First: rec.Start}
			r.refused[k] = x
		}
		x.Packets += rec.Packets
		x.First, x.Last = earlier(x.First, rec.Start), later(x.Last, rec.End)
	case rec.Side == "consumer": // the provider's node tells the same flow once more
		k := consumerKey{rec.Connection, cmp.Or(rec.ConsumerVPC, rec.VPC), rec.Tuple.SrcAddr, rec.Tuple.DstPort}
		c := r.consumers[k]
		if c == nil && len(r.consumers) >= maxPeers {
			k.address, k.port = "others", 0
			c = r.consumers[k]
		}
		if c == nil {
			c = &Consumer{Account: cmp.Or(rec.ConsumerAccount, rec.Account), VPC: k.vpc, Address: k.address, Connection: k.connection,
				Approver: rec.Approver, Port: k.port, First: rec.Start}
			r.consumers[k] = c
		}
		if name, ok := r.names.Of(rec); ok {
			c.Name = name // the last one, where the address had several
		}
		c.Records++
		c.Packets, c.Bytes = c.Packets+rec.Packets, c.Bytes+rec.Bytes
		c.ReplyPackets, c.ReplyBytes = c.ReplyPackets+rec.ReplyPackets, c.ReplyBytes+rec.ReplyBytes
		c.First, c.Last = earlier(c.First, rec.Start), later(c.Last, rec.End)
	}
}

// sum orders what was counted.
func (r *records) sum() {
	for _, c := range r.consumers {
		r.s.Consumers = append(r.s.Consumers, *c)
	}
	slices.SortFunc(r.s.Consumers, func(a, b Consumer) int {
		return cmp.Or(cmp.Compare(b.Bytes+b.ReplyBytes, a.Bytes+a.ReplyBytes), cmp.Compare(a.Connection, b.Connection), cmp.Compare(a.VPC, b.VPC),
			cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
	})
	for _, x := range r.refused {
		r.s.Refused = append(r.s.Refused, *x)
	}
	slices.SortFunc(r.s.Refused, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Account, b.Account),
			cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
	})
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
