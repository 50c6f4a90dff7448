package bundle

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// past is a log of changes before and in March.
type past struct {
	t   *testing.T
	h   *history
	seq uint64
}

func (p *past) tell(at time.Time, kind api.Kind, id string, after any) {
	p.t.Helper()
	p.seq++
	c := api.AuditChange{Kind: kind, ID: id}
	if after != nil {
		b, err := json.Marshal(after)
		if err != nil {
			p.t.Fatal(err)
		}
		c.After = b
	}
	p.h.take(&api.AuditEvent{Seq: p.seq, At: at, Actor: "key-1", Changes: []api.AuditChange{c}})
}

func (p *past) decide(at time.Time, id, service, approver string) {
	p.t.Helper()
	p.tell(at, api.KindConnection, id, api.Connection{Meta: api.Meta{ID: id}, Service: service, Approver: approver, DecidedAt: at,
		State: api.Available})
}

// TestApprovalsInForceWhenTheTimeBegan stand in the file as on the page, of the service that was made again under the name of a deleted one;
// those that were superseded by then, or whose connection was gone, do not.
func TestApprovalsInForceWhenTheTimeBegan(t *testing.T) {
	day := func(month time.Month, n int) time.Time { return time.Date(2026, month, n, 0, 0, 0, 0, time.UTC) }
	o := Options{Service: "pay/ledger", From: day(3, 1), To: day(4, 1)}
	p := &past{t: t, h: newHistory(o)}
	ledger := func(id string) api.Service {
		return api.Service{Meta: api.Meta{ID: id, Account: "444455556666", Name: "ledger"}}
	}
	p.tell(day(1, 1), api.KindAccount, "444455556666", api.Account{Meta: api.Meta{ID: "444455556666", Name: "pay"}})
	p.tell(day(1, 1), api.KindService, "vpce-svc-old", ledger("vpce-svc-old"))
	p.decide(day(1, 2), "con-old", "vpce-svc-old", "key-1")
	p.tell(day(1, 3), api.KindConnection, "con-old", nil)
	p.tell(day(1, 3), api.KindService, "vpce-svc-old", nil)
	p.tell(day(2, 1), api.KindService, "vpce-svc-new", ledger("vpce-svc-new"))
	p.decide(day(2, 2), "con-new", "vpce-svc-new", "key-1")
	p.decide(day(2, 3), "con-new", "vpce-svc-new", "key-2")
	p.decide(day(2, 3), "con-gone", "vpce-svc-new", "key-1")
	p.tell(day(2, 4), api.KindConnection, "con-gone", nil)
	p.decide(day(3, 5), "con-march", "vpce-svc-new", "key-3")
	p.tell(day(3, 6), api.KindConnection, "con-march", nil)

	s := &Summary{Service: o.Service, From: o.From, To: o.To}
	r := newRecords(o, s)
	line := `{"serviceId":"vpce-svc-new","serviceName":"pay/ledger","start":"2026-03-05T00:00:00Z","end":"2026-03-05T00:00:00Z"}`
	if err := r.line([]byte(line), io.Discard); err != nil {
		t.Fatal(err)
	}
	ids, name := p.h.services(o.Service, s.Name, r.services)
	if !slices.Equal(ids, []string{"vpce-svc-new"}) || name != "pay/ledger" {
		t.Errorf("about %v, %q", ids, name)
	}
	s.Approvals = p.h.decisions(ids)
	var file bytes.Buffer
	if err := asJSON(approvals(s))(&file); err != nil {
		t.Fatal(err)
	}
	var told struct {
		Rows []struct{ Connection, Approver string }
	}
	if err := json.Unmarshal(file.Bytes(), &told); err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, row := range told.Rows {
		have = append(have, row.Connection+" "+row.Approver)
	}
	if want := []string{"con-new key-2", "con-march key-3"}; !slices.Equal(have, want) {
		t.Errorf("the file has %q, want %q: %s", have, want, file.String())
	}
	if len(s.Approvals) != len(have) {
		t.Errorf("the page has %+v", s.Approvals)
	}
}

// TestServicesOfOneName: both are told of where both lived in the bundle's time, unless one is asked for by its id.
func TestServicesOfOneName(t *testing.T) {
	o := Options{From: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	p := &past{t: t, h: newHistory(o)}
	p.tell(o.From, api.KindService, "vpce-svc-1", api.Service{Meta: api.Meta{ID: "vpce-svc-1", Account: "4", Name: "ledger"}})
	p.tell(o.From.Add(time.Hour), api.KindService, "vpce-svc-1", nil)
	p.tell(o.From.Add(2*time.Hour), api.KindService, "vpce-svc-2", api.Service{Meta: api.Meta{ID: "vpce-svc-2", Account: "4", Name: "ledger"}})
	for ref, want := range map[string]string{"4/ledger": "vpce-svc-1 vpce-svc-2", "vpce-svc-1": "vpce-svc-1", "4/none": "4/none"} {
		if ids, _ := p.h.services(ref, "", nil); strings.Join(ids, " ") != want {
			t.Errorf("%s is %v, want %s", ref, ids, want)
		}
	}
}
