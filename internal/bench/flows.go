package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
	"github.com/culvert-net/culvert/audit/parquetfile"
	"github.com/culvert-net/culvert/audit/query"
)

// archiveHours is how many files an archive has, one an hour: a month.
const archiveHours = 720

// archiveFrom is when an archive begins.
var archiveFrom = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// traffic makes lines as a mesh of 200 interfaces and 50 connections has them. One connection is used in one hour of the month only.
type traffic struct {
	rng *rand.Rand
	seq uint64 // of the line before
}

const rareHour = 400

func (t *traffic) line(hour int) format.Row {
	t.seq++
	rng, i := t.rng, t.rng.IntN(200)
	end := archiveFrom.Add(time.Duration(hour)*time.Hour + time.Duration(rng.Int64N(int64(time.Hour))))
	r := &api.FlowRecord{
		Node: "node-" + strconv.Itoa(i%8), Boot: "7f1c3a5e-0000-4000-8000-000000000000", Sequence: t.seq, Account: "11112222333" + strconv.Itoa(i%5),
		Interface: "eni-0a1b2c3d4e5f60" + strconv.Itoa(100+i), VPC: "vpc-0a1b2c3d4e5f6071" + strconv.Itoa(i%9), Start: end.Add(-time.Second),
		End: end, Action: api.ActionAccept, LogStatus: format.StatusOK, Reason: "FORWARDED", State: api.FlowClosed, Stage: "workload",
		Protocol: 6, Direction: "egress", Generation: 17, FlowID: fmt.Sprintf("%016x", rng.Uint64()), TCPFlags: 19, TCPState: "TIME_WAIT",
		Tuple: api.FlowTuple{SrcAddr: fmt.Sprintf("10.0.%d.%d", i%4, rng.IntN(250)), SrcPort: uint16(32768 + rng.IntN(28000)),
			DstAddr: fmt.Sprintf("10.0.9.%d", rng.IntN(50)), DstPort: []uint16{443, 5432, 6379, 8443}[rng.IntN(4)]},
		Packets: 4 + rng.Uint64N(40), Bytes: 400 + rng.Uint64N(60_000),
	}
	r.Translated = r.Tuple
	con := rng.IntN(50)
	if hour == rareHour && rng.IntN(1000) == 0 {
		con = 99
	}
	r.Connection, r.Endpoint = fmt.Sprintf("vpce-con-%017d", con), fmt.Sprintf("vpce-%017d", con)
	r.Service, r.ServiceName, r.Side = fmt.Sprintf("vpce-svc-%017d", con%10), "pay/ledger-"+strconv.Itoa(con%10), "consumer"
	if rng.IntN(20) == 0 {
		r.Action, r.Reason, r.State = api.ActionReject, "GROUP_INGRESS", ""
	}
	return format.Row{FlowRecord: r, Records: 1, Region: "eu-1", AZ: "z1", InstanceID: r.Node, Reply: rng.IntN(2) == 0}
}

// archive is a month of Parquet files with so many lines, and what asking it takes.
type archive struct {
	lines     int
	bytes     int64
	cpu       float64 // seconds to write it
	questions []askedTime
}

type askedTime struct {
	name    string
	seconds []float64
	work    query.Work
}

// questions that are asked, by what they have to read.
var questions = []struct {
	name string
	q    query.Query
}{
	{"one connection in a month, by source", query.Query{Group: []string{"srcaddr"},
		Where: []query.Clause{query.Is("connection-id", fmt.Sprintf("vpce-con-%017d", 99))}}},
	{"what an address did in one hour", query.Query{Group: []string{"dstaddr", "dstport"}, Since: archiveFrom.Add(100 * time.Hour),
		Until: archiveFrom.Add(101 * time.Hour), Where: []query.Clause{query.Any("10.0.1.7", "srcaddr", "dstaddr")}}},
	{"refused in a day, by reason and interface", query.Query{Group: []string{"reason", "interface-id"}, Since: archiveFrom.Add(240 * time.Hour),
		Until: archiveFrom.Add(264 * time.Hour), Where: []query.Clause{query.Is("action", api.ActionReject)}}},
	{"all of the month, by service and port", query.Query{Group: []string{"service-name", "dstport"}}},
}

func (r *flowsResult) measureArchive(ctx context.Context, dir string, lines int) error {
	a := archive{lines: lines}
	if err := a.write(ctx, dir); err != nil {
		return err
	}
	for _, question := range questions {
		t := askedTime{name: question.name}
		for range r.o.rounds {
			start := time.Now()
			answer, err := query.Run(ctx, query.FS(os.DirFS(dir)), question.q)
			if err != nil {
				return err
			}
			t.seconds, t.work = append(t.seconds, time.Since(start).Seconds()), answer.Work
		}
		a.questions = append(a.questions, t)
		log.Printf("%s, %d lines: %s s", question.name, lines, spreadOf(t.seconds).format(2))
	}
	r.archives = append(r.archives, a)
	if r.o.keep {
		return nil
	}
	return os.RemoveAll(dir)
}

// archiveDir is where the archive of so many lines is.
func archiveDir(in string, lines int) string { return filepath.Join(in, "lines-"+strconv.Itoa(lines)) }

func (o flowsOptions) buildArchives(ctx context.Context) error {
	for _, n := range o.sizes {
		a := archive{lines: n}
		if err := a.write(ctx, archiveDir(o.dir, n)); err != nil {
			return err
		}
	}
	return nil
}

// wroteFile says what writing an archive took. It is there from when a run that wrote some of it has ended.
const wroteFile = "wrote.json"

// wrote is how far an archive is.
type wrote struct {
	Version int     `json:"version"` // of what lines are
	Whole   bool    `json:"whole"`
	CPU     float64 `json:"cpu"` // seconds
}

// linesVersion changes with what is written: archives of another one are written anew.
const linesVersion = 1

// writtenOf is what there is of an archive; what nobody has noted is removed.
func writtenOf(dir string) (w wrote, err error) {
	data, err := os.ReadFile(filepath.Join(dir, wroteFile))
	if err == nil {
		err = json.Unmarshal(data, &w)
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && w.Version != linesVersion {
		return wrote{Version: linesVersion}, os.RemoveAll(dir)
	}
	return w, err
}

// write makes a file for each hour, on all CPUs; hours that are there are taken.
func (a *archive) write(ctx context.Context, dir string) error {
	w, err := writtenOf(dir)
	if err != nil {
		return err
	}
	if !w.Whole {
		log.Printf("writing an archive of %d lines", a.lines)
		before := cpuTime()
		err := a.hours(ctx, dir)
		w.Whole, w.CPU = err == nil, w.CPU+cpuTime()-before
		data, errJSON := json.Marshal(w)
		if err := errors.Join(err, errJSON, os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, wroteFile), data, 0o644)); err != nil {
			return err
		}
	}
	a.cpu = w.CPU
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".parquet" {
			return err
		}
		info, err := d.Info()
		if err == nil {
			a.bytes += info.Size()
		}
		return err
	})
}

func (a *archive) hours(ctx context.Context, dir string) error {
	fields, err := format.Parse(format.All)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for hour := range archiveHours {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			first := a.lines * hour / archiveHours
			return writeHour(dir, fields, hour, first, a.lines*(hour+1)/archiveHours-first)
		})
	}
	return g.Wait()
}

// hourFile is where the lines of an hour are, named as deliveries do: so they are known to be of one flow log.
func hourFile(dir string, hour int) string {
	at := archiveFrom.Add(time.Duration(hour) * time.Hour)
	return filepath.Join(dir, "AWSLogs/111122223333/vpcflowlogs/eu-1", at.Format("2006/01/02"), fmt.Sprintf(
		"111122223333_vpcflowlogs_eu-1_fl-0123456789abcdef0_%s_%08x.log.parquet", at.Add(time.Hour).Format("20060102T1504Z"), hour))
}

// writeHour writes an hour's file as a whole, unless it is there. Lines are numbered from the first on.
func writeHour(dir string, fields []format.Field, hour, first, lines int) (err error) {
	path := hourFile(dir, hour)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	if err := errors.Join(writeLines(f, fields, hour, first, lines), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func writeLines(to io.Writer, fields []format.Field, hour, first, lines int) error {
	w, err := parquetfile.NewWriter(to, fields)
	if err != nil {
		return err
	}
	t := &traffic{rng: rand.New(rand.NewPCG(1, uint64(hour))), seq: uint64(first)}
	rows := make([]format.Row, 0, 1024)
	for left := lines; left > 0; left -= len(rows) {
		rows = rows[:0]
		for range min(left, cap(rows)) {
			rows = append(rows, t.line(hour))
		}
		if err := w.Write(rows); err != nil {
			return err
		}
	}
	return w.Close()
}
