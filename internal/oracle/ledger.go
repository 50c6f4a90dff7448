package oracle

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
)

// Reasons of the datapath that are no refusals with a record: entry, forwarded, answered by a program, the node's own, not IPv4.
var unrecorded = []string{"NONE", "FORWARDED", "ANSWERED", "NODES_OWN", "NOT_IP"}

// Ledger is a node's packets by hook: what came, what was decided, what the flow records say (invariant I10).
type Ledger struct {
	Entered, Decided          map[string]uint64 // by hook; and by "workload ENI" where the ENI is known at the entry
	Forwarded, Refused        uint64            // but at hook host, where the node's own packets leave no record
	RecordedFlows, RecordedNo uint64            // packets of records
	Declared                  uint64            // sum of what records declare as lost
	Records                   int
}

// NewLedger adds up a node's counters and the flow records in its directory.
func NewLedger(counters []local.Counter, records []api.FlowRecord) *Ledger {
	l := &Ledger{Entered: map[string]uint64{}, Decided: map[string]uint64{}, Records: len(records)}
	for _, c := range counters {
		sum := l.Decided
		if c.Reason == "NONE" {
			sum = l.Entered
		}
		sum[c.Hook] += c.Packets
		if c.Hook == "workload" && c.ENI != "" {
			sum["workload "+c.ENI] += c.Packets
		}
		switch {
		case c.Hook == "host":
		case c.Reason == "FORWARDED":
			l.Forwarded += c.Packets
		case !slices.Contains(unrecorded, c.Reason):
			l.Refused += c.Packets
		}
	}
	for i := range records {
		r := &records[i]
		l.Declared += r.Lost
		switch {
		case r.Stage == "host":
		case r.Action == api.ActionReject:
			l.RecordedNo += r.Packets
		default:
			l.RecordedFlows += r.Packets + r.ReplyPackets
		}
	}
	return l
}

// Balance says where packets came in and no verdict was counted, or the other way. It holds where no packet is under way.
func (l *Ledger) Balance() error {
	var errs []error
	for _, k := range slices.Sorted(maps.Keys(l.Entered)) {
		if l.Entered[k] != l.Decided[k] {
			errs = append(errs, fmt.Errorf("%s: %d packets entered, %d were decided on", k, l.Entered[k], l.Decided[k]))
		}
	}
	return errors.Join(errs...)
}

// Missing is what the counters have more than the records: of forwarded packets, and of refused ones.
func (l *Ledger) Missing() (forwarded, refused int64) {
	return int64(l.Forwarded - l.RecordedFlows), int64(l.Refused - l.RecordedNo)
}

// String is the ledger in one line.
func (l *Ledger) String() string {
	f, r := l.Missing()
	return fmt.Sprintf("entered %d, decided %d; forwarded %d, in records %d (difference %d); refused %d, in records %d "+
		"(difference %d); declared as lost %d; %d records", sumOf(l.Entered), sumOf(l.Decided), l.Forwarded, l.RecordedFlows, f,
		l.Refused, l.RecordedNo, r, l.Declared, l.Records)
}

func sumOf(m map[string]uint64) (n uint64) {
	for _, hook := range []string{"workload", "tunnel", "local", "host"} {
		n += m[hook]
	}
	return n
}

// Records reads all flow records in an agent's directory of them, shipped or not.
func Records(dir string) ([]api.FlowRecord, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	var all []api.FlowRecord
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		sc := bufio.NewScanner(bytes.NewReader(data[:bytes.LastIndexByte(data, '\n')+1]))
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			if _, sealed, err := seal.Parse(sc.Bytes()); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			} else if sealed || seal.IsQuery(sc.Bytes()) {
				continue
			}
			var r api.FlowRecord
			if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			all = append(all, r)
		}
	}
	return all, nil
}
