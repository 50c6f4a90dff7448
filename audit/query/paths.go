package query

import (
	"regexp"
	"strconv"
	"time"
)

// dated are the times that file names tell, each in UTC: the window in which all of the file's lines came to be written.
var dated = []struct {
	pattern *regexp.Regexp
	span    time.Duration
}{
	// An evidence segment file: the hour of its seals.
	{regexp.MustCompile(`(?:^|/)(\d{4})-(\d\d)-(\d\d)T(\d\d)\.ndjson(?:\.gz)?$`), time.Hour},
	// A delivered file, in AWS's way: the begin of its five minutes. Earlier builds wrote their end.
	{regexp.MustCompile(`_vpcflowlogs_[^/]*_(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)Z_[^/]*$`), 5 * time.Minute},
	// Folders, with Hive's names or without.
	{regexp.MustCompile(`(?:^|/)year=(\d{4})/month=(\d\d)/day=(\d\d)/hour=(\d\d)/`), time.Hour},
	{regexp.MustCompile(`(?:^|/)year=(\d{4})/month=(\d\d)/day=(\d\d)/`), 24 * time.Hour},
	{regexp.MustCompile(`(?:^|/)(\d{4})/(\d\d)/(\d\d)/(\d\d)/`), time.Hour},
	{regexp.MustCompile(`(?:^|/)(\d{4})/(\d\d)/(\d\d)/`), 24 * time.Hour},
}

// early is how much later than its file's name says a record may end: a file may have ten minutes, and clocks differ.
const early = 15 * time.Minute

// written is the window that a file's name tells of.
func written(name string) (from, to time.Time, ok bool) {
	for _, n := range dated {
		m := n.pattern.FindStringSubmatch(name)
		if m == nil {
			continue
		}
		var v [5]int
		for i, s := range m[1:] {
			v[i], _ = strconv.Atoi(s) // digits, the pattern says
		}
		from = time.Date(v[0], time.Month(v[1]), v[2], v[3], v[4], 0, 0, time.UTC)
		if from.Month() != time.Month(v[1]) || from.Day() != v[2] {
			return from, to, false // no date
		}
		return from, from.Add(n.span), true
	}
	return from, to, false
}

// wanted tells whether a file of this name may hold lines of the query's time: they are written after they ended, within late.
func (q *Query) wanted(name string, late time.Duration) bool {
	from, to, ok := written(name)
	if !ok {
		return true
	}
	if !q.Since.IsZero() && to.Add(early).Before(q.Since) {
		return false
	}
	return q.Until.IsZero() || from.Add(-late).Before(q.Until)
}
