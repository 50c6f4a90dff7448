package flow

import (
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// nowhere takes all that is written and keeps nothing.
type nowhere struct{ *MemStore }

type nowhereFile struct{}

func (nowhereFile) Write(b []byte) (int, error) { return len(b), nil }
func (nowhereFile) Sync() error                 { return nil }
func (nowhereFile) Truncate(int64) error        { return nil }
func (nowhereFile) Close() error                { return nil }

func (nowhere) Open(string) (File, error) { return nowhereFile{}, nil }

// BenchmarkRecords makes and writes the records of 8,192 flows that count, as each reading does, and seals each ninth.
func BenchmarkRecords(b *testing.B) {
	for _, sealing := range []bool{false, true} {
		name := "plain"
		if sealing {
			name = "sealed"
		}
		b.Run(name, func(b *testing.B) {
			src := NewMem()
			cfg := Config{
				Node: node, Source: src, Clock: func() Clock { return Clock{Boot: bootNow(), Wall: time.Now()} },
				Log: LogConfig{Store: nowhere{NewMemStore()}, Boot: "boot-1", MaxBytes: 1 << 40, SegmentBytes: 1 << 40},
			}
			if sealing {
				cfg.Log.Key = sealKey
			}
			c, err := New(cfg)
			if err != nil {
				b.Fatal(err)
			}
			c.SetView(testView())
			if !c.open(b.Context()) {
				b.Fatal("not open")
			}
			flows := make([]Flow, maxChunk)
			for i := range flows {
				flows[i] = consumerFlow(uint64(i+1), 1)
			}
			b.ResetTimer()
			for i := range b.N {
				p := c.agg.Begin(Input{})
				for j := range flows {
					flows[j].Packets++
					flows[j].Bytes += 60
					p.Observe(&flows[j])
				}
				p.End(Input{Now: at(float64(i) + 2), Complete: true, Full: true, All: true})
				var account *Account
				if sealing && i%9 == 0 {
					n := uint64(i+2) * maxChunk
					account = &Account{Before: []Counter{{11, "workload", "FORWARDED", n, 60 * n}}, After: []Counter{{11, "workload", "FORWARDED", n, 60 * n}}}
				}
				for more := true; more; {
					var records []api.FlowRecord
					if records, more = p.Next(maxChunk); more {
						c.record(records, nil)
					} else {
						c.record(records, account)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*maxChunk), "ns/record")
		})
	}
}
