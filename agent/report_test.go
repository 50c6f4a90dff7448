package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

// hosted is the target of healthView that is on this node.
var hosted = health.Key{TargetGroup: 22, Target: netip.MustParseAddrPort("10.0.1.5:443")}
