package delivery

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
	"github.com/culvert-net/culvert/audit/parquetfile"
)

// Object is what is delivered as a whole: a file, or a batch of a stream.
type Object struct {
	FlowLog string `json:"flowLog"`
	Account string `json:"account"`
	// Destination is where it was put, with its type; of one that waits it is empty.
	Destination string    `json:"-"`
	Path        string    `json:"path"` // below the destination, with slashes
	File        string    `json:"file"` // in the spool
	Size        int64     `json:"size"`
	SHA256      string    `json:"sha256"` // hex
	Lines       int       `json:"lines"`
	Records     int       `json:"records"`
	First       time.Time `json:"first"` // oldest packet
	Last        time.Time `json:"last"`  // newest one
}

// window is the lines of one window of time.
type window struct {
	end     time.Time
	rows    []format.Row
	records int // that the rows are made of
}

// byWindow sorts joined records into the windows that they belong to, oldest first.
func byWindow(joined []format.Joined, length time.Duration, enrich func(*format.Row)) []*window {
	all := map[time.Time]*window{}
	for i := range joined {
		end := endOf(joined[i].End, length)
		w := all[end]
		if w == nil {
			w = &window{end: end}
			all[end] = w
		}
		w.records += joined[i].Records // its rows are of the same ones
		for _, row := range format.Rows(&joined[i].FlowRecord, joined[i].Records) {
			enrich(&row)
			w.rows = append(w.rows, row)
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *window) int { return a.end.Compare(b.end) })
}

// pathOf is AWS's path and name of a file: folders and time are those of the begin of its window, the hash is of its content.
func pathOf(f *api.FlowLog, region string, end time.Time, sum string) string {
	at, dirs := end.Add(-windowOf(f)).UTC(), []string(nil)
	if f.HiveCompatiblePartitions {
		dirs = []string{"AWSLogs", "aws-account-id=" + f.Account, "aws-service=vpcflowlogs", "aws-region=" + region,
			at.Format("year=2006"), at.Format("month=01"), at.Format("day=02")}
	} else {
		dirs = []string{"AWSLogs", f.Account, "vpcflowlogs", region, at.Format("2006"), at.Format("01"), at.Format("02")}
	}
	if f.PerHourPartition {
		hour := at.Format("15")
		if f.HiveCompatiblePartitions {
			hour = "hour=" + hour
		}
		dirs = append(dirs, hour)
	}
	name := fmt.Sprintf("%s_vpcflowlogs_%s_%s_%s_%s%s", f.Account, region, f.ID, at.Format("20060102T1504Z"), sum[:8], extensions[f.FileFormat])
	return path.Join(append(dirs, name)...)
}

var extensions = map[api.FileFormat]string{
	api.FilePlainText: ".log.gz",
	api.FileJSON:      ".log.json.gz",
	api.FileParquet:   ".log.parquet",
}

// content is a window's file. The same rows give the same bytes.
func content(f *api.FlowLog, fields []format.Field, rows []format.Row) ([]byte, error) {
	if f.FileFormat == api.FileParquet {
		return parquet(fields, rows)
	}
	var text []byte
	var err error
	if f.FileFormat == api.FilePlainText {
		text = append([]byte(format.Header(fields)), '\n')
	}
	for i := range rows {
		if f.FileFormat == api.FilePlainText {
			text = format.AppendText(text, fields, &rows[i])
		} else if text, err = format.AppendJSON(text, fields, &rows[i]); err != nil {
			return nil, err
		}
	}
	if f.DestinationType == api.DestinationStream {
		return text, nil
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(text); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// parquet has its own compression.
func parquet(fields []format.Field, rows []format.Row) ([]byte, error) {
	var out bytes.Buffer
	w, err := parquetfile.NewWriter(&out, fields)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(w.Write(rows), w.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// object makes a window's file.
func object(f *api.FlowLog, fields []format.Field, region string, w *window) (Object, []byte, error) {
	slices.SortStableFunc(w.rows, func(a, b format.Row) int { return a.End.Compare(b.End) })
	data, err := content(f, fields, w.rows)
	if err != nil {
		return Object{}, nil, err
	}
	hash := sha256.Sum256(data)
	sum := hex.EncodeToString(hash[:])
	o := Object{FlowLog: f.ID, Account: f.Account, Size: int64(len(data)), SHA256: sum, Lines: len(w.rows), Records: w.records}
	for i := range w.rows {
		r := &w.rows[i]
		if i == 0 || r.Start.Before(o.First) {
			o.First = r.Start.UTC()
		}
		if r.End.After(o.Last) {
			o.Last = r.End.UTC()
		}
	}
	o.Path = pathOf(f, region, w.end, sum)
	if f.DestinationType == api.DestinationStream {
		o.Path = fmt.Sprintf("%s_%s_%s.ndjson", f.ID, w.end.UTC().Format("20060102T150405Z"), sum[:16])
	}
	return o, data, nil
}
