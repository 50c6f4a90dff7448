package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

// meshFlows is what recording costs on a mesh, and what it keeps up with.
type meshFlows struct {
	slowdown []slowdown
	rates    []rateResult
}

// slowdown is a metric with agents that read and record all flows each second, over the same with agents that are stopped.
type slowdown struct {
	name   string
	ratios []float64
	want   float64
}

// rateResult is what became of flows that were opened at a rate.
type rateResult struct {
	asked, had     float64 // new flows a second
	opened         int64
	recorded, lost int64 // flows that records tell of, and packets or events that they declare as lost
}

// flowRates that are tried, new flows a second.
var flowRates = []int{5_000, 20_000, 50_000, 100_000}

const (
	rateTime    = 2 * time.Second
	firstSource = 2000
	sources     = 50_000 // ports from firstSource on, to each port of the target's
	firstTarget = 20_000
)

// opened is what the load "open" says.
type opened struct {
	Flows   int64   `json:"flows"`
	Seconds float64 `json:"seconds"`
}

// openFlows ADDRESS DURATION RATE opens flows of one datagram each, all with other ports, from PORT of ADDRESS on.
func openFlows(args []string, out io.Writer) error {
	to, err := net.ResolveUDPAddr("udp4", args[0])
	if err != nil {
		return err
	}
	within, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	rate, err := strconv.ParseFloat(args[2], 64)
	if err != nil || rate <= 0 {
		return fmt.Errorf("%q is no rate", args[2])
	}
	sent, start := int64(0), time.Now()
	for time.Since(start) < within {
		if float64(sent) > rate*time.Since(start).Seconds() {
			continue // busy waiting is exact, and the load's CPU is not what is measured
		}
		target := &net.UDPAddr{IP: to.IP, Port: to.Port + int(sent/sources)}
		c, err := net.DialUDP("udp4", &net.UDPAddr{Port: firstSource + int(sent%sources)}, target)
		if err != nil {
			return err
		}
		_, errWrite := c.Write([]byte("x"))
		// An answer that nobody listens is an error of an earlier datagram.
		if err := c.Close(); err != nil || errWrite != nil && !errors.Is(errWrite, syscall.ECONNREFUSED) {
			return errors.Join(errWrite, err)
		}
		sent++
	}
	return json.NewEncoder(out).Encode(opened{sent, time.Since(start).Seconds()})
}

// measureMesh brings up a mesh and takes it down.
func (r *flowsResult) measureMesh(ctx context.Context, dir string) (err error) {
	o := options{rounds: r.o.rounds, systems: farName + "," + nearName, only: "tcp1"}
	if err := o.check(); err != nil {
		return err
	}
	b := &bench{dir: dir, worlds: map[string]*world{}}
	if b.peers, err = build(ctx, dir, o); err != nil {
		return err
	}
	if err := comeFirst(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.down()) }()
	if err := b.up(ctx, o); err != nil {
		return err
	}
	for _, s := range b.systems {
		if err := s.serve(ctx); err != nil {
			return err
		}
	}
	r.mesh = &meshFlows{}
	if err := r.mesh.compare(ctx, b, r.o.rounds); err != nil {
		return err
	}
	return r.mesh.open(ctx, b.mesh)
}

// compare measures in turns with agents that work and with agents that are stopped, which neither read counters nor write.
func (m *meshFlows) compare(ctx context.Context, b *bench, rounds int) error {
	agents, err := b.mesh.processes("agent")
	if err != nil {
		return err
	}
	for _, x := range []struct {
		name   string
		run    func(context.Context, *system) (map[metric]float64, error)
		of     metric
		system string
		want   float64
	}{
		{"TCP, 1 stream, same node, Gbit/s", throughput(1, forward), throughputOf(1, forward), nearName, 0.98},
		{"TCP, 1 stream, other node, Gbit/s", throughput(1, forward), throughputOf(1, forward), farName, 0.98},
		{"requests of 64 B, 32 connections, same node, 1/s", requests(32), requestsOf(32, perSecond), nearName, 0.98},
	} {
		s := slowdown{name: x.name, want: x.want}
		for round := range rounds {
			log.Printf("%s: round %d of %d", x.name, round+1, rounds)
			var have [2]float64
			for i := range have {
				stopped := (i+round)%2 == 0
				v, err := stoppedOr(agents, stopped, func() (map[metric]float64, error) { return x.run(ctx, b.system(x.system)) })
				if err != nil {
					return err
				}
				if stopped {
					have[0] = v[x.of]
				} else {
					have[1] = v[x.of]
				}
			}
			s.ratios = append(s.ratios, have[1]/have[0])
		}
		m.slowdown = append(m.slowdown, s)
	}
	return nil
}

// stoppedOr runs f while processes are stopped, or while they run.
func stoppedOr(ids []int, stopped bool, f func() (map[metric]float64, error)) (v map[metric]float64, err error) {
	signal := func(s syscall.Signal) (err error) {
		for _, id := range ids {
			err = errors.Join(err, syscall.Kill(id, s))
		}
		return err
	}
	if stopped {
		if err := signal(syscall.SIGSTOP); err != nil {
			return nil, errors.Join(err, signal(syscall.SIGCONT))
		}
		defer func() { err = errors.Join(err, signal(syscall.SIGCONT)) }()
	}
	return f()
}

// open opens flows at rising rates inside the crowd's VPC, between two nodes, and looks what records say of them.
func (m *meshFlows) open(ctx context.Context, mesh *mesh) error {
	c, err := mesh.lab.Admin(crowdName)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.AuthorizeIngress(ctx, "default", []api.RuleRequest{{Protocol: api.UDP, FromPort: firstTarget, ToPort: 65535, CIDR: subnet}}); err != nil {
		return err
	}
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if err := c.WaitConverged(ctx, status.Revision); err != nil {
		return err
	}
	from, err := c.GetENI(ctx, "crowd")
	if err != nil {
		return err
	}
	to, err := c.GetENI(ctx, "sink")
	if err != nil {
		return err
	}
	s := &system{name: crowdName, client: mesh.prefix + "-crowd", dial: to.Address}
	port := firstTarget
	for _, rate := range flowRates {
		log.Printf("%d new flows/s", rate)
		begin := time.Now()
		var got opened
		if err := s.loadAt(ctx, &got, port, "open", rateTime.String(), strconv.Itoa(rate)); err != nil {
			return err
		}
		x := rateResult{asked: float64(rate), had: float64(got.Flows) / got.Seconds, opened: got.Flows}
		if err := x.count(ctx, c, from.ID, port, begin); err != nil {
			return err
		}
		m.rates = append(m.rates, x)
		port += int(got.Flows/sources) + 1
	}
	return nil
}

// loadAt runs a load of this program against a port of the system's.
func (s *system) loadAt(ctx context.Context, v any, port int, kind string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	to := netip.AddrPortFrom(s.dial, uint16(port)).String()
	out, err := output(ctx, s.client, append([]string{self, kind, to}, args...)...)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, v)
}

// count looks until records of the flows stop coming.
func (x *rateResult) count(ctx context.Context, c *client.Client, eni string, port int, begin time.Time) error {
	deadline := time.Now().Add(recordsTime)
	again := time.NewTicker(2 * time.Second)
	defer again.Stop()
	for time.Now().Before(deadline) {
		flows, lost := map[string]bool{}, int64(0)
		q := api.FlowQuery{FlowFilter: api.FlowFilter{Interface: eni, Since: begin.Add(-time.Second), Limit: 1_000_000}}
		err := c.Flows(ctx, q, func(e api.FlowEnvelope) error {
			var r api.FlowRecord
			if err := json.Unmarshal(e.Record, &r); err != nil {
				return err
			}
			lost += int64(r.Lost)
			if int(r.Tuple.DstPort) >= port {
				flows[r.FlowID] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
		if n := int64(len(flows)); n == x.opened || n > 0 && n == x.recorded && lost == x.lost {
			x.recorded, x.lost = n, lost
			return nil
		}
		x.recorded, x.lost = int64(len(flows)), lost
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// recordsTime is how long records may take to come to the server, after which those that are missing are lost undeclared.
const recordsTime = 20 * time.Second

func (m *meshFlows) markdown(b *bytes.Buffer) {
	if m == nil {
		return
	}
	b.WriteString("Recording all flows at 1 s beside agents that are stopped, which neither read nor record; the ratio of what is reached:\n\n" +
		"| | ratio | want | |\n|---|---|---|---|\n")
	for _, s := range m.slowdown {
		have := spreadOf(s.ratios)
		mark := "missed"
		if have.median >= s.want {
			mark = "met"
		}
		fmt.Fprintf(b, "| %s | %s | ≥ %.2f | %s |\n", s.name, have.format(3), s.want, mark)
	}
	fmt.Fprintf(b, "\nFlows of one datagram opened on one node to another, for %v at each rate; what records of the consumer's node tell of them:\n\n"+
		"| asked, 1/s | reached | opened | recorded | declared lost | neither |\n|---|---|---|---|---|---|\n", rateTime)
	for _, x := range m.rates {
		fmt.Fprintf(b, "| %.0f | %.0f | %d | %d | %d | %d |\n", x.asked, x.had, x.opened, x.recorded, x.lost, max(0, x.opened-x.recorded-x.lost))
	}
	b.WriteString("\n")
}
