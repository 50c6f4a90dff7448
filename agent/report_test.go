package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/culvert-net/culvert/agent/health"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// What does not fit the node is said where people look, and what is revoked meanwhile goes.
func TestTooLargeViewIsSaid(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	v := testView(2)
	v.Names = nil
	for i := range plan.MaxForwarders + 1 {
		v.VPCs[0].Forwarders = append(v.VPCs[0].Forwarders, fmt.Sprintf("tls://192.0.2.%d", i))
	}
	b.hear(v)
	_, errs := b.round()
	if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), "forwarders: 1 of account 1 left out (vpc-1)") {
		t.Errorf("errors %v", errs)
	}
	if len(b.names) != 0 || b.agent.lastPlan().Revision != 2 {
		t.Errorf("names %v, revision %d", b.names, b.agent.lastPlan().Revision)
	}
	s, err := b.agent.Status(t.Context())
	if err != nil || !slices.Contains(s.Errors, errs[0].Error()) || !slices.Contains(b.told().Errors, errs[0].Error()) {
		t.Errorf("status %v, %v; report %v", s.Errors, err, b.told().Errors)
	}
}

// told is what the agent would report now.
func (b *bench) told() api.NodeStatus {
	s, _, _ := b.agent.nodeStatus(0)
	return s
}

// A report that the control plane refuses for its length would make the node look dead.
func TestReportedErrorsAreBounded(t *testing.T) {
	many := slices.Repeat([]string{strings.Repeat("é", api.MaxStatusErrorLen)}, api.MaxStatusErrors+7)
	got := reported(many)
	if len(got) != api.MaxStatusErrors || !strings.HasPrefix(got[len(got)-1], "8 more: ") {
		t.Errorf("%d errors, the last %q", len(got), got[len(got)-1])
	}
	if e := got[0]; len(e) > api.MaxStatusErrorLen || !strings.HasSuffix(e, "é…") || strings.ToValidUTF8(e, "?") != e {
		t.Errorf("an error of %d bytes", len(e))
	}
	if few := many[:api.MaxStatusErrors]; len(reported(few)) != len(few) || len(few[0]) != 2*api.MaxStatusErrorLen {
		t.Error("what fits is not left as it is")
	}
}

// lines collects what is logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(of string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), of)
}

// A first start without a view is normal, and is said only when it lasts.
func TestNoViewYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, log := newBench(t), &lines{}
		b.agent.log = slog.New(slog.NewTextHandler(log, nil))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.agent.loop(ctx) }()
		<-time.After(viewPatience - time.Second)
		if n := log.count("no view yet"); n != 0 {
			t.Errorf("logged %d times within moments", n)
		}
		if s, err := b.agent.Status(ctx); err != nil || len(s.Errors) != 1 || !strings.Contains(s.Errors[0], "no view yet") {
			t.Errorf("status %v, %v", s.Errors, err)
		}
		<-time.After(time.Minute)
		if n, errs := log.count("level=WARN"), log.count("level=ERROR"); n != 1 || errs != 0 || log.count("no view yet") != 1 {
			t.Errorf("%d warnings and %d errors after a minute", n, errs)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// reportServer keeps the reports that it takes.
type reportServer struct {
	ControlPlane
	mu    sync.Mutex
	taken []api.NodeStatus
	err   error
	log   lines // of the agent
}

func (r *reportServer) Report(_ context.Context, s api.NodeStatus) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.taken = append(r.taken, s)
	}
	return r.err
}

// answer has reports from now on answered so.
func (r *reportServer) answer(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// reports are those that were taken.
func (r *reportServer) reports() []api.NodeStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.taken)
}

// reporting has an agent with a view, whose targets are this node's, report within a bubble.
func reporting(t *testing.T, test func(t *testing.T, b *bench, cp *reportServer)) {
	synctest.Test(t, func(t *testing.T) {
		b, cp := newBench(t), &reportServer{}
		b.cp = cp
		b.restart()
		b.agent.log = slog.New(slog.NewTextHandler(&cp.log, nil))
		b.hear(healthView(t, 1))
		b.mustRound()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.agent.report(ctx) }()
		synctest.Wait()
		test(t, b, cp)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// hosted is the target of healthView that is on this node.
var hosted = health.Key{TargetGroup: 22, Target: netip.MustParseAddrPort("10.0.1.5:443")}

// What is said of a target is no longer than the control plane takes, whatever its tenant had probed.
func TestReportedTargetsAreBounded(t *testing.T) {
	reporting(t, func(t *testing.T, b *bench, cp *reportServer) {
		b.health.report(health.Status{Key: hosted, State: health.Unhealthy, Detail: strings.Repeat("é", 1000)})
		<-time.After(15 * time.Second)
		all := cp.reports()
		if len(all) != 2 || len(all[1].TargetHealth) != 1 {
			t.Fatalf("%+v", all)
		}
		d := all[1].TargetHealth[0].Description
		if len(d) > api.MaxHealthDescriptionLen || !strings.HasSuffix(d, "é…") || !utf8.ValidString(d) {
			t.Errorf("a description of %d bytes: %q", len(d), d)
		}
	})
}

// A node whose reports are refused is dead to the control plane: its log says why, once.
func TestRefusedReportsAreLogged(t *testing.T) {
	reporting(t, func(t *testing.T, _ *bench, cp *reportServer) {
		for i, err := range []error{&api.Error{Code: api.CodeRequestTooLarge, Message: "too much"}, errors.New("no route")} {
			cp.answer(err)
			<-time.After(time.Minute)
			if n := cp.log.count("too much"); n != 1 || cp.log.count("level=ERROR") != 1 {
				t.Errorf("after %v: logged %d times", err, n)
			}
			if i == 0 {
				cp.answer(&api.Error{Code: api.CodeRequestTooLarge, Message: "too much", RequestID: "req-2"})
				<-time.After(time.Minute)
			}
		}
		cp.answer(nil)
		<-time.After(time.Minute)
		cp.answer(&api.Error{Message: "too much"})
		<-time.After(time.Minute)
		if n := cp.log.count("too much"); n != 2 {
			t.Errorf("refused anew: logged %d times", n)
		}
	})
}

// Changes of targets' health are told once, however many there are, and all of them to a server that may know nothing.
func TestChangesOfHealthAreToldOnce(t *testing.T) {
	reporting(t, func(t *testing.T, b *bench, cp *reportServer) {
		told := 0
		expect := func(when string, changes ...int) {
			t.Helper()
			<-time.After(25 * time.Second)
			var got []int
			all := cp.reports()
			for _, s := range all[told:] {
				if n := len(s.HealthTransitions); n > 0 {
					got = append(got, n)
				}
			}
			if told = len(all); !slices.Equal(got, changes) {
				t.Errorf("%s: told of %v changes, want %v", when, got, changes)
			}
		}
		b.health.change(hosted, 2*api.MaxReportedTransitions+1)
		expect("at first", api.MaxReportedTransitions, api.MaxReportedTransitions, 1)
		expect("nothing new")
		cp.answer(errors.New("no route"))
		b.health.change(hosted, 2)
		expect("the server is away")
		b.health.change(hosted, 1)
		cp.answer(nil)
		expect("it is back", 3)
		b.health.change(targetKey(5), 1) // is none of this node's any more
		expect("another's")
		b.agent.box.begun()
		expect("a new stream", api.MaxReportedTransitions, api.MaxReportedTransitions, 4)
		if first := cp.reports()[1].HealthTransitions; !first[0].At.Equal(b.health.transitions[0].At) {
			t.Errorf("the first change came at %s", first[0].At)
		}
	})
}
