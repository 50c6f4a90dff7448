package history

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

var begin = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// log makes events, an hour apart.
type log struct {
	t      *testing.T
	events []api.AuditEvent
	now    map[string]json.RawMessage
}

func (l *log) event(action, actor string, resources ...api.Resource) {
	l.t.Helper()
	e := api.AuditEvent{Seq: uint64(len(l.events) + 1), At: begin.Add(time.Duration(len(l.events)) * time.Hour), Action: action, Actor: actor}
	for _, r := range resources {
		m := r.GetMeta()
		text, err := json.Marshal(r)
		if err != nil {
			l.t.Fatal(err)
		}
		if m.Name == "gone" {
			text = nil
		}
		e.Changes = append(e.Changes, api.AuditChange{Kind: r.Kind(), ID: m.ID, Account: m.Account, Before: l.now[m.ID], After: text})
		l.now[m.ID] = text
	}
	l.events = append(l.events, e)
}

// story: a service of account 2 whose endpoint of account 1 is accepted, capped, whose policy changes, and which is deleted.
func story(t *testing.T) *log {
	l := &log{t: t, now: map[string]json.RawMessage{}}
	svc := api.Service{Meta: api.Meta{ID: "vpce-svc-1", Account: "2"}, LoadBalancers: []string{"lb-1"}, AllowedPrincipals: []string{"1"}}
	con := api.Connection{Meta: api.Meta{ID: "vpce-con-1", Account: "2"}, Endpoint: "vpce-1", Service: "vpce-svc-1", LoadBalancer: "lb-1",
		State: api.PendingAcceptance}
	e := api.Endpoint{Meta: api.Meta{ID: "vpce-1", Account: "1"}, SecurityGroups: []string{"sg-1"}, Connection: "vpce-con-1"}
	l.event("make", "key-2", &api.LoadBalancer{Meta: api.Meta{ID: "lb-1", Account: "2"}, SecurityGroups: []string{"sg-2"},
		Listeners: []api.Listener{{TargetGroup: "tg-1"}}}, &svc, &api.TargetGroup{Meta: api.Meta{ID: "tg-1", Account: "2"}},
		&api.SecurityGroup{Meta: api.Meta{ID: "sg-2", Account: "2"}})
	l.event("create-endpoint", "key-1", &con, &e, &api.SecurityGroup{Meta: api.Meta{ID: "sg-1", Account: "1"}})
	accepted := con
	accepted.State, accepted.Approver, accepted.DecidedAt = api.Available, "key-2", begin.Add(2*time.Hour)
	l.event("accept-connections", "key-2", &accepted)
	capped := accepted
	capped.Caps = &api.Caps{MaxFlows: 3}
	l.event("modify-connections", "key-3", &capped)
	closed := svc
	closed.AllowedPrincipals = nil
	l.event("disallow-principals", "key-2", &closed)
	gone := capped
	gone.Name = "gone"
	l.event("delete-endpoint", "key-1", &gone)
	return l
}

// at shows the connection after so many events, in both ways that states are made.
func (l *log) at(id string, n int) *api.AuditedState {
	l.t.Helper()
	at := begin.Add(time.Duration(n-1)*time.Hour + time.Minute)
	book := Book{}
	for i := range l.events {
		book.Add(&l.events[i], at)
	}
	forward, err := Show(id, at, book.Look)
	if err != nil {
		l.t.Fatal(err)
	}
	backward, err := Show(id, at, func(id string) (*State, error) {
		s := &State{}
		for _, e := range slices.Backward(l.events) {
			for i := range e.Changes {
				if !e.At.After(at) && e.Changes[i].ID == id && s.Older(&e, &e.Changes[i]) {
					return s, nil
				}
			}
		}
		return s, nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	a, _ := json.Marshal(forward)
	b, _ := json.Marshal(backward)
	if string(a) != string(b) {
		l.t.Fatalf("in order\n%s\nbackward\n%s", a, b)
	}
	return forward
}

func TestAConnectionAtAnyTime(t *testing.T) {
	l := story(t)
	if s := l.at("vpce-con-1", 1); s != nil {
		t.Errorf("before it was: %+v", s)
	}
	for n, want := range map[int]struct {
		exists     bool
		state      api.ConnectionState
		by         string
		decider    string
		principals int
	}{
		2: {true, api.PendingAcceptance, "create-endpoint", "", 1},
		3: {true, api.Available, "accept-connections", "key-2", 1},
		4: {true, api.Available, "modify-connections", "key-2", 1},
		5: {true, api.Available, "modify-connections", "key-2", 0},
		6: {false, api.Available, "delete-endpoint", "key-2", 0},
	} {
		s := l.at("vpce-con-1", n)
		if s == nil {
			t.Fatalf("after %d: nothing", n)
		}
		var con api.Connection
		if err := json.Unmarshal(s.Resource.State, &con); err != nil {
			t.Fatal(err)
		}
		decider := ""
		if s.Resource.Decision != nil {
			decider = s.Resource.Decision.Actor
		}
		if s.Resource.Exists != want.exists || con.State != want.state || s.Resource.Event.Action != want.by || decider != want.decider ||
			s.Resource.Event.Changes != nil {
			t.Errorf("after %d: %+v", n, s.Resource)
		}
		var ids []string
		for _, r := range s.Related {
			ids = append(ids, r.ID)
			var svc api.Service
			if r.Kind == api.KindService && (json.Unmarshal(r.State, &svc) != nil || len(svc.AllowedPrincipals) != want.principals) {
				t.Errorf("after %d: %s", n, r.State)
			}
		}
		slices.Sort(ids)
		if !slices.Equal(ids, []string{"lb-1", "sg-1", "sg-2", "tg-1", "vpce-1", "vpce-svc-1"}) {
			t.Errorf("after %d: %v", n, ids)
		}
	}
}
