package agent

import (
	"context"
	"slices"
	"time"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/agent/health"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/metrics"
)

// Labels of traffic through an endpoint, from the consumer's side and from the provider's. They are CloudWatch's
// dimensions, with ids where CloudWatch has ids.
var (
	endpointLabels = []string{"vpc_endpoint_id", "service_name", "vpc_id"}
	serviceLabels  = []string{"service_id", "service_name", "vpc_endpoint_id"}
)

// Metrics of an agent. What AWS has, with AWS's meaning: AWS/PrivateLinkEndpoints on the nodes of consumers,
// AWS/PrivateLinkServices on those of providers.
var (
	mEndpointActive = gauge("culvert_endpoint_active_connections",
		"Flows through the endpoint that have not ended.", "ActiveConnections", endpointLabels...)
	mEndpointBytes = counter("culvert_endpoint_bytes_processed_total",
		"Bytes through the endpoint, both directions.", "BytesProcessed", endpointLabels...)
	mEndpointNew     = counter("culvert_endpoint_new_connections_total", "Flows opened through the endpoint.", "NewConnections", endpointLabels...)
	mEndpointDropped = counter("culvert_endpoint_packets_dropped_total",
		"Packets refused on this node on their way through the endpoint.", "PacketsDropped", endpointLabels...)
	mEndpointResets = counter("culvert_endpoint_rst_packets_received_total",
		"Flows that the service's side ended with a RST.", "RstPacketsReceived", endpointLabels...)
	mServiceActive = gauge("culvert_service_active_connections",
		"Flows to the service's targets here that have not ended.", "ActiveConnections", serviceLabels...)
	mServiceBytes = counter("culvert_service_bytes_processed_total",
		"Bytes to and from the service's targets here.", "BytesProcessed", serviceLabels...)
	mServiceNew = counter("culvert_service_new_connections_total",
		"Flows opened to the service's targets here.", "NewConnections", serviceLabels...)
	mServiceDropped = counter("culvert_service_packets_dropped_total",
		"Packets refused on this node on their way to the service.", "", serviceLabels...)
	mServiceResets = counter("culvert_service_rst_packets_sent_total",
		"Flows that the service's targets here ended with a RST.", "RstPacketsSent", serviceLabels...)

	mPackets   = counter("culvert_datapath_packets_total", "Packets by what became of them; reason NONE: all that entered.", "", "hook", "reason")
	mBytes     = counter("culvert_datapath_bytes_total", "Their IP bytes as workloads have them.", "", "hook", "reason")
	mUncounted = counter("culvert_datapath_uncounted_total", "What the programs could not keep a count of, or did not send: RSTs beyond the rate.", "", "kind")

	mShareUsed = gauge("culvert_share_used_ratio",
		"Of flow entries or source ports that somebody may have; absent below 0.8.", "", "kind", "id")

	mLimited = counter("culvert_limit_refused_packets_total", "Packets refused at a cap or share, by whose they are.", "", "account_id",
		"vpc_endpoint_id", "service_name", "side", "reason")
	mRevision   = gauge("culvert_view_revision", "Of the view that is applied.", "")
	mGeneration = gauge("culvert_plan_generation", "Of the plan in force; 0: the node is closed.", "")
	mViewAge    = gauge("culvert_view_age_seconds", "Since the view that is applied was issued.", "")
	mConnected  = gauge("culvert_server_connected", "1 while views are streamed from the server.", "")
	mProblems   = gauge("culvert_problems", "That culvert status names.", "")
	mRounds     = counter("culvert_rounds_total", "Times that the node was compared with its plan.", "")
	mCertExpiry = gauge("culvert_certificate_expiry_timestamp_seconds", "When the node's certificate expires, in seconds since 1970.", "")

	mPeerAge    = gauge("culvert_peer_last_handshake_age_seconds", "Since the last handshake with the peer; absent: there was none.", "", "peer")
	mPeerRx     = counter("culvert_peer_received_bytes_total", "From the peer, WireGuard's framing included.", "", "peer")
	mPeerTx     = counter("culvert_peer_sent_bytes_total", "To the peer, WireGuard's framing included.", "", "peer")
	mPeerMTU    = gauge("culvert_peer_path_mtu_bytes", "Largest packet of the tunnel that goes to the peer in one piece.", "", "peer")
	mTunnelUp   = gauge("culvert_tunnel_up", "1 while the tunnel answers.", "")
	mTunnelLost = counter("culvert_tunnel_dropped_packets_total", "Packets that the tunnel lost.", "", "reason")
	mPeerGiven  = counter("culvert_tunnel_given_packets_total",
		"Packets of workloads that the tunnel took for the peer, before anything that may drop them.", "", "peer")
	mPeerCame = counter("culvert_tunnel_came_packets_total", "Packets of workloads that came from the peer by the tunnel.", "", "peer")

	mFlows          = gauge("culvert_flows", "That have not ended.", "")
	mRecords        = counter("culvert_flow_records_total", "Flow records written.", "")
	mRecordsPending = gauge("culvert_flow_records_pending", "That the server has not got.", "")
	mRecordsLost    = counter("culvert_flow_records_lost_total", "That are declared lost.", "")
	mRecordsFail    = gauge("culvert_flow_log_failing", "1 while the disk takes no flow records.", "")
	mSeals          = counter("culvert_flow_seals_total", "Segments of the flow log that were closed and signed.", "")
	mWorkloads      = gauge("culvert_workloads", "Attached, by state: up, pending or failed.", "", "state")
	mMembers        = gauge("culvert_gossip_members", "By what gossip believes of them.", "", "state")
	mTargets        = gauge("culvert_targets", "Whose health is known here, by state: checked by this node (hosted), or sent to by it (used).", "",
		"side", "state")
	mProbes     = counter("culvert_health_probes_total", "Probes of this node's targets, by result.", "", "result")
	mHealthSeen = counter("culvert_health_events_total",
		"Digests of other nodes (digest_in), to them (digest_out), datagrams that were not understood (foreign), "+
			"datagrams above what is read of a node (excess), "+
			"suspicions that made this node probe (suspicion), targets that went with their host (unreachable).", "", "event")
	mQueriesLost = counter("culvert_dns_queries_unrecorded_total", "Of VPCs with a query log, that are in no record.", "")

	mDNS = counter("culvert_dns_queries_total", "By what became of them; result received: all within their rate.", "", "result")
)

var agentMetrics = []*metrics.Metric{
	mEndpointActive, mEndpointBytes, mEndpointNew, mEndpointDropped, mEndpointResets,
	mServiceActive, mServiceBytes, mServiceNew, mServiceDropped, mServiceResets,
	mPackets, mBytes, mUncounted, mShareUsed, mLimited, mRevision, mGeneration, mViewAge, mConnected, mProblems, mRounds, mCertExpiry,
	mPeerAge, mPeerRx, mPeerTx, mPeerMTU, mPeerGiven, mPeerCame, mTunnelUp, mTunnelLost,
	mFlows, mRecords, mRecordsPending, mRecordsLost, mRecordsFail, mSeals, mWorkloads, mMembers,
	mTargets, mProbes, mHealthSeen, mDNS, mQueriesLost,
}

// Metrics lists what an agent shows.
func Metrics() []*metrics.Metric { return agentMetrics }

func gauge(name, help, aws string, labels ...string) *metrics.Metric {
	return &metrics.Metric{Name: name, Type: metrics.Gauge, Help: help, AWS: aws, Labels: labels}
}

func counter(name, help, aws string, labels ...string) *metrics.Metric {
	return &metrics.Metric{Name: name, Type: metrics.Counter, Help: help, AWS: aws, Labels: labels}
}

// scrapeWait bounds the question to the tunnel.
const scrapeWait = 2 * time.Second

// registry has the agent's figures.
func (m *machine) registry() *metrics.Registry {
	return metrics.NewRegistry(metrics.NewSource(agentMetrics, m.figures))
}

// figures reads all there is. What cannot be read is absent, not zero.
func (m *machine) figures(emit metrics.Emit) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeWait)
	defer cancel()
	m.trafficFigures(emit)
	m.datapathFigures(emit)
	m.agent.figures(emit)
	m.agent.tunnelFigures(ctx, emit)
	m.recordFigures(emit)
	m.agent.healthFigures(emit)
	emit(mQueriesLost, float64(m.recorder.queries.Lost()))
	d := m.resolver.server.Stats()
	for result, n := range map[string]uint64{
		"received": d.Queries, "not_client": d.NotClient, "rate_limited": d.RateLimited, "malformed": d.Malformed,
		"forwarded": d.Forwarded, "forward_refused": d.ForwardsRefused, "cache_hit": d.CacheHits, "stale": d.Stale,
		"upstream_failed": d.UpstreamFailures, "firewall_blocked": d.Blocked, "firewall_alerted": d.Alerted,
	} {
		emit(mDNS, float64(n), result)
	}
}

func (m *machine) trafficFigures(emit metrics.Emit) {
	for k, t := range m.recorder.collector.Traffic() {
		switch k.Side {
		case flow.SideConsumer:
			labels := func() []string { return []string{k.Endpoint, k.ServiceName, k.VPC} }
			emit(mEndpointActive, float64(t.Active), labels()...)
			emit(mEndpointBytes, float64(t.Bytes), labels()...)
			emit(mEndpointNew, float64(t.New), labels()...)
			emit(mEndpointDropped, float64(t.Dropped), labels()...)
			emit(mEndpointResets, float64(t.Resets), labels()...)
		case flow.SideProvider:
			labels := func() []string { return []string{k.Service, k.ServiceName, k.Endpoint} }
			emit(mServiceActive, float64(t.Active), labels()...)
			emit(mServiceBytes, float64(t.Bytes), labels()...)
			emit(mServiceNew, float64(t.New), labels()...)
			emit(mServiceDropped, float64(t.Dropped), labels()...)
			emit(mServiceResets, float64(t.Resets), labels()...)
		}
	}
	for _, l := range m.recorder.collector.Limited() {
		emit(mLimited, float64(l.Packets), l.Account, l.Endpoint, l.ServiceName, l.Side, l.Reason)
	}
}

// datapathFigures sums up over interfaces: of each alone, culvert status --counters tells.
func (m *machine) datapathFigures(emit metrics.Emit) {
	counters, err := m.datapath.Counters()
	if err != nil {
		return
	}
	type key struct{ hook, reason string }
	packets, bytes := map[key]uint64{}, map[key]uint64{}
	for _, c := range counters {
		k := key{flow.Hook(c.Hook).String(), c.Reason.String()}
		packets[k] += c.Packets
		bytes[k] += c.Bytes
	}
	for k, n := range packets {
		emit(mPackets, float64(n), k.hook, k.reason)
		emit(mBytes, float64(bytes[k]), k.hook, k.reason)
	}
	losses, err := m.datapath.Losses()
	if err != nil {
		return
	}
	for loss, kind := range map[bpf.Loss]string{
		bpf.LossEvents: "events", bpf.LossRefusals: "refusals", bpf.LossCounters: "counters",
		bpf.LossResets: "resets",
	} {
		emit(mUncounted, float64(losses[loss]), kind)
	}
	for _, c := range m.agent.edges.Datapath.Pressure() {
		kind, id := c.named(m.agent.lastPlan())
		emit(mShareUsed, float64(c.Used)/float64(max(c.Bound, 1)), kind, id)
	}
}

// healthFigures are those of targets.
func (a *Agent) healthFigures(emit metrics.Emit) {
	hosted, used := map[health.State]int{}, map[health.State]int{}
	for _, s := range a.edges.Health.Statuses() {
		hosted[s.State]++
	}
	for _, f := range a.edges.Health.Facts() {
		used[f.State]++
	}
	for _, s := range []health.State{health.Unknown, health.Initial, health.Healthy, health.Unhealthy} {
		emit(mTargets, float64(hosted[s]), "hosted", s.String())
		emit(mTargets, float64(used[s]), "used", s.String())
	}
	c := a.edges.Health.Counters()
	emit(mProbes, float64(c.Probes-c.Failed), "passed")
	emit(mProbes, float64(c.Failed), "failed")
	emit(mProbes, float64(c.Untried), "untried")
	for event, n := range map[string]uint64{"digest_in": c.DigestsIn, "digest_out": c.DigestsOut, "foreign": c.Foreign,
		"excess": c.Excess, "suspicion": c.Suspicions, "unreachable": c.Unreachable} {
		emit(mHealthSeen, float64(n), event)
	}
}

// figures of the agent itself.
func (a *Agent) figures(emit metrics.Emit) {
	a.mu.Lock()
	applied, view, errs, rounds := a.applied, a.appliedView, len(a.errors), a.begun
	attachments := slices.Clone(a.attachments)
	a.mu.Unlock()
	_, connected := a.box.state()
	emit(mConnected, metrics.Bool(connected))
	emit(mRounds, float64(rounds))
	if a.box.problem() != nil {
		errs++
	}
	emit(mProblems, float64(errs))
	if applied != nil {
		emit(mRevision, float64(applied.Revision))
		emit(mGeneration, float64(applied.Generation))
		emit(mViewAge, time.Since(view.IssuedAt).Seconds())
	}
	if _, to, err := a.identity().Validity(); err == nil {
		emit(mCertExpiry, float64(to.Unix()))
	}
	states := map[string]int{"up": 0, "pending": 0, "failed": 0}
	for _, att := range attachments {
		state := a.workload(att, applied).State
		if _, known := states[state]; !known {
			state = "failed" // State says why
		}
		states[state]++
	}
	for state, n := range states {
		emit(mWorkloads, float64(n), state)
	}
	members := map[string]int{}
	for _, m := range a.edges.Members.States() {
		members[m.State]++
	}
	for state, n := range members {
		emit(mMembers, float64(n), state)
	}
}

func (a *Agent) tunnelFigures(ctx context.Context, emit metrics.Emit) {
	s, err := a.edges.Wire.Observe(ctx)
	emit(mTunnelUp, metrics.Bool(err == nil))
	if err != nil {
		return
	}
	names := map[string]string{}
	if v, _ := a.box.latest(); v != nil {
		for _, p := range v.Peers {
			names[p.PublicKey] = p.Name
		}
	}
	a.mu.Lock()
	pathMTU := a.pathMTU
	a.mu.Unlock()
	for _, p := range s.Peers {
		name := names[p.PublicKey.String()]
		if name == "" { // removed a moment ago
			continue
		}
		if !p.LastHandshake.IsZero() {
			emit(mPeerAge, max(0, time.Since(p.LastHandshake).Seconds()), name) // the clock may have gone back
		}
		emit(mPeerRx, float64(p.RxBytes), name)
		emit(mPeerTx, float64(p.TxBytes), name)
		if mtu := pathMTU[p.PublicKey.String()]; mtu != 0 {
			emit(mPeerMTU, float64(mtu), name)
		}
	}
	for reason, n := range a.tunnelLoss(ctx) {
		emit(mTunnelLost, float64(n), reason)
	}
	passer, ok := a.edges.Wire.(wire.Passer)
	if !ok {
		return
	}
	passed, err := passer.Passages(ctx, func(wire.PublicKey) string { return "" })
	if err != nil {
		return
	}
	for _, p := range passed {
		if name := names[p.Key.String()]; name != "" {
			emit(mPeerGiven, float64(p.Given), name)
			emit(mPeerCame, float64(p.Came), name)
		}
	}
}

func (m *machine) recordFigures(emit metrics.Emit) {
	s := m.recorder.collector.Stats()
	emit(mFlows, float64(s.Flows))
	emit(mRecords, float64(s.Sequence))
	emit(mRecordsPending, float64(s.Queued+s.Pending))
	emit(mRecordsLost, float64(s.Lost))
	emit(mSeals, float64(s.Seals))
	failing := 0.0
	if s.Failing {
		failing = 1
	}
	emit(mRecordsFail, failing)
}
