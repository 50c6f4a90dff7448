package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/controlplane/store"
)

const (
	// prefixDaily and a date: a keptReport. keyDaily is the newest date that there is one of; before the first, the day before it.
	prefixDaily = "report/daily/"
	keyDaily    = "report-daily"
	dateFormat  = time.DateOnly
	// dailyDelay is how long after midnight a day is taken to be over: nodes' records come late.
	dailyDelay = 10 * time.Minute
	// dailyEvery is how often is looked whether one is due.
	dailyEvery = 15 * time.Second
	// maxDailyBacklog is of how many days past at most reports are made, after a server was away.
	maxDailyBacklog = 31
	problemDaily    = "daily-report"
)

// keptReport is a daily report as the store has it.
type keptReport struct {
	api.DailyReportEntry
	Report json.RawMessage `json:"report"`
}

// makeReports makes the daily reports, each when its day is over, until ctx ends.
func (s *Server) makeReports(ctx context.Context) {
	tick := time.NewTicker(dailyEvery)
	defer tick.Stop()
	for {
		if err := s.reportDays(ctx); ctx.Err() == nil {
			s.trouble(problemDaily, "making the daily report", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// reportDays makes the reports that are due.
func (s *Server) reportDays(ctx context.Context) error {
	yesterday := dayOf(s.cfg.Now().Add(-dailyDelay)).AddDate(0, 0, -1)
	data, err := s.store.Get(ctx, keyDaily)
	if err != nil {
		return err
	}
	if data == nil { // from today on
		return s.store.Put(ctx, keyDaily, []byte(dayOf(s.cfg.Now()).AddDate(0, 0, -1).Format(dateFormat)))
	}
	last, err := time.Parse(dateFormat, string(data))
	if err != nil {
		return fmt.Errorf("the store's %s is damaged: restore a backup of the data directory: %w", keyDaily, err)
	}
	if oldest := yesterday.AddDate(0, 0, -maxDailyBacklog); last.Before(oldest) {
		last = oldest
	}
	for d := last.AddDate(0, 0, 1); !d.After(yesterday); d = d.AddDate(0, 0, 1) {
		if err := s.reportDay(ctx, d); err != nil {
			return fmt.Errorf("of %s: %w", d.Format(dateFormat), err)
		}
	}
	return s.forgetReports(ctx, yesterday)
}

// dayOf is the beginning of a time's day.
func dayOf(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// reportDay makes the report of a day: first into the Merkle log, then into the store. One that is made again after a crash may say
// more, of what came late; both are in the log.
func (s *Server) reportDay(ctx context.Context, d time.Time) error {
	r := &api.DailyReport{Version: 1, Date: d.Format(dateFormat), From: d, To: d.AddDate(0, 0, 1), MadeAt: s.cfg.Now().UTC(),
		Problems: s.problems.all()}
	r.Problems = r.Problems[:min(len(r.Problems), api.MaxStatusNames)]
	if err := s.dailyAudit(ctx, r); err != nil {
		return err
	}
	pairs, err := s.dailyFlows(ctx, r)
	if err != nil {
		return err
	}
	r.Verification = s.verifyDay(r.From, r.To)
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	l, err := leaf.OfReport(r.MadeAt, "daily", r.From, r.To, body)
	if err != nil {
		return err
	}
	if s.tree == nil {
		return errors.New("there is no Merkle log")
	}
	if _, err := s.tree.Append(ctx, l); err != nil {
		return err
	}
	if err := pairs.save(s.pairsFile()); err != nil {
		return err
	}
	kept, err := json.Marshal(keptReport{api.DailyReportEntry{Date: r.Date, MadeAt: r.MadeAt, SHA256: l.Report.SHA256,
		Good: r.Verification.Good, Denied: r.Audit.Denied}, body})
	if err != nil {
		return err
	}
	_, err = s.store.Txn(ctx, func(tx *store.Tx) error {
		tx.SetSide(prefixDaily+r.Date, kept)
		tx.SetSide(keyDaily, []byte(r.Date))
		return nil
	})
	return err
}

// dailyAudit counts the day's events. It reads back from the newest until those of the day are over, by an hour of grace: clocks are set.
func (s *Server) dailyAudit(ctx context.Context, r *api.DailyReport) error {
	a := &r.Audit
	denials, reads := map[api.Denials]uint64{}, s.questions()
	err := s.eachAudit(ctx, store.PrefixAudit, 0, 0, func(e *api.AuditEvent) bool {
		if e.At.Before(r.From.Add(-time.Hour)) {
			return false
		}
		if e.At.Before(r.From) || !e.At.Before(r.To) {
			return true
		}
		a.FirstSeq, a.LastSeq = e.Seq, max(a.LastSeq, e.Seq)
		if e.Continues != 0 { // one call, whose event this goes on
			a.Decisions = append(a.Decisions, decisionsIn(e, api.MaxDailyRows-len(a.Decisions))...)
			return true
		}
		n := max(e.Count, 1)
		switch {
		case e.Action == api.ActionStartServer:
			a.Starts++
			if strings.Contains(e.Message, unsaidStop) {
				a.Crashes++
			}
		case e.Outcome != api.OutcomeSuccess:
			a.Denied += n
			kind := api.Denials{Actor: e.Actor, Account: e.Account, Action: e.Action, Outcome: e.Outcome}
			if e.Role == api.RoleAnonymous {
				a.Anonymous += n
				kind.Action = ""
			}
			denials[kind] += n
		case reads[e.Action]:
			a.LogReads += n
		case len(e.Changes) > 0:
			a.Calls++
		}
		a.Decisions = append(a.Decisions, decisionsIn(e, api.MaxDailyRows-len(a.Decisions))...)
		return true
	})
	for kind, n := range denials {
		kind.Count = n
		a.Denials = append(a.Denials, kind)
	}
	slices.SortFunc(a.Denials, func(x, y api.Denials) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), cmp.Compare(x.Actor, y.Actor), cmp.Compare(x.Account, y.Account),
			cmp.Compare(x.Action, y.Action), cmp.Compare(x.Outcome, y.Outcome))
	})
	a.Denials = a.Denials[:min(len(a.Denials), api.MaxDailyRows)]
	return err
}

// decisionsIn are the connections that an event accepted, rejected or let expire.
func decisionsIn(e *api.AuditEvent, most int) (out []api.Decision) {
	for _, c := range e.Changes {
		var before, after api.Connection
		was, err := c.Was()
		if err != nil || c.Kind != api.KindConnection || c.After == nil || json.Unmarshal(c.After, &after) != nil ||
			was != nil && json.Unmarshal(was, &before) != nil {
			continue
		}
		if after.DecidedAt.IsZero() || after.DecidedAt.Equal(before.DecidedAt) || len(out) >= most {
			continue
		}
		out = append(out, api.Decision{At: e.At, Connection: after.ID, Service: after.Service, Endpoint: after.Endpoint, State: after.State,
			Actor: cmp.Or(after.Approver, e.Actor), Seq: e.Seq})
	}
	return out
}

// questions are the operations that change nothing: what leaves an event of success all the same is that logs are read.
func (s *Server) questions() map[string]bool {
	out := map[string]bool{}
	for _, item := range s.huma.OpenAPI().Paths {
		if item.Get != nil {
			out[item.Get.OperationID] = true
		}
	}
	return out
}

// forgetReports deletes what is older than the audit log keeps events; the Merkle log has it.
func (s *Server) forgetReports(ctx context.Context, yesterday time.Time) error {
	oldest := prefixDaily + yesterday.AddDate(0, 0, -api.AuditRetentionDays).Format(dateFormat)
	old, err := s.store.List(ctx, prefixDaily, "", 1)
	if err != nil || len(old) == 0 || old[0].Key >= oldest {
		return err
	}
	return s.store.Delete(ctx, old[0].Key)
}

func (s *Server) pairsFile() string { return filepath.Join(s.cfg.DataDir, "known-pairs.json") }

func (s *Server) registerReports() {
	reading(s, operation{http.MethodGet, "/v1/reports/daily", "get-daily-reports", "Daily reports, the newest last", anAdmin},
		func(c *call, _ *none) (*api.List[api.DailyReportEntry], error) {
			out := &api.List[api.DailyReportEntry]{Items: []api.DailyReportEntry{}, Revision: c.r.Revision}
			err := c.s.eachSide(c.ctx, prefixDaily, func(kv store.KV) error {
				var k keptReport
				err := json.Unmarshal(kv.Value, &k)
				out.Items = append(out.Items, k.DailyReportEntry)
				return err
			})
			return out, err
		})
	reading(s, operation{http.MethodGet, "/v1/reports/daily/{date}", "get-daily-report", "The report of one day", anAdmin},
		func(c *call, in *struct {
			Date string `path:"date" doc:"Day, such as 2026-03-01, in UTC"`
		}) (*api.DailyReport, error) {
			if _, err := time.Parse(dateFormat, in.Date); err != nil {
				return nil, api.Errorf(api.CodeInvalidParameter, "date", "give a day such as 2026-03-01", "%q is no day", api.Shortened(in.Date))
			}
			data, err := c.s.store.Get(c.ctx, prefixDaily+in.Date)
			if err != nil {
				return nil, err
			}
			var k keptReport
			if data == nil || json.Unmarshal(data, &k) != nil {
				return nil, api.Errorf(api.CodeReportNotFound, "date", "list the ones that there are with GET /v1/reports/daily",
					"there is no report of %s: one is made of each day that the server was there, when the day is over", in.Date)
			}
			c.s.noteRead(c.ctx, c, "get-daily-report", "")
			out := new(api.DailyReport)
			return out, json.Unmarshal(k.Report, out)
		})
}
