package controlplane

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/metrics"
)

// Metrics of a server. Traffic is counted by nodes.
var (
	mServiceEndpoints = serverGauge("culvert_service_endpoints", "Endpoints of the service that are Available.", "EndpointsCount",
		"service_id", "service_name")
	mEndpoints    = serverGauge("culvert_endpoints", "By state.", "", "state")
	mResources    = serverGauge("culvert_resources", "By kind.", "", "kind")
	mRevision     = serverGauge("culvert_revision", "Newest revision of the resources.", "")
	mNodes        = serverGauge("culvert_nodes", "By state.", "", "state")
	mNodesLive    = serverGauge("culvert_nodes_live", "Nodes that are heard of.", "")
	mNodesWaiting = serverGauge("culvert_nodes_waiting", "Live nodes that have not applied the newest revision.", "")
	mNodeProblems = serverGauge("culvert_node_problems", "That the node last reported.", "", "node")
	mTargets      = serverGauge("culvert_target_group_targets", "Targets by state, of groups that a load balancer uses.",
		"HealthyHostCount, UnHealthyHostCount", "target_group_id", "state")
	mViewStreams    = serverGauge("culvert_view_streams", "Open streams of views.", "")
	mStoreFill      = serverGauge("culvert_store_fill_ratio", "Part of the store's room that is used; from 0.8 on accounts may only take away.", "")
	mProblems       = serverGauge("culvert_server_problems", "Of the server itself, as culvert status shows them.", "")
	mCAExpiry       = serverGauge("culvert_ca_expiry_timestamp_seconds", "When the CA's certificate expires, in seconds since 1970.", "")
	mUnsealed       = serverGauge("culvert_audit_events_unsealed", "Audit events that are not in the Merkle log yet.", "")
	mAuditBytes     = serverCounter("culvert_audit_log_bytes_total", "That events of an account's calls added to the Merkle log.", "", "account_id")
	mFlowsStored    = serverCounter("culvert_flow_records_stored_total", "Flow records that came and are new.", "")
	mFlowsRefused   = serverCounter("culvert_flow_records_refused_total", "Flow records that the node may not write.", "")
	mFlowLogFailing = serverGauge("culvert_flow_log_delivery_failing", "1 while what a flow log's destination is to get does not arrive.", "", "flow_log_id")
	mFlowLogObjects = serverCounter("culvert_flow_log_objects_delivered_total", "Files and batches that arrived.", "", "flow_log_id")
	mFlowLogLost    = serverCounter("culvert_flow_log_records_lost_total", "Flow records that were not delivered in time.", "", "flow_log_id")
	mDelivered      = serverGauge("culvert_flow_log_files_bytes",
		"Of files of flow logs on the server's disk, once something was delivered there.", "", "account_id")
	mSegments    = serverCounter("culvert_segments_total", "Segments of nodes' logs that came, check, and are kept as evidence.", "")
	mBadSegments = serverCounter("culvert_segments_refused_total", "Segments that do not check, and are kept aside.", "")
)

var serverMetrics = []*metrics.Metric{
	mServiceEndpoints, mEndpoints, mResources, mRevision, mNodes, mNodesLive, mNodesWaiting, mNodeProblems, mTargets,
	mViewStreams, mStoreFill, mProblems, mCAExpiry, mUnsealed, mAuditBytes, mFlowsStored, mFlowsRefused, mSegments, mBadSegments,
	mFlowLogFailing, mFlowLogObjects, mFlowLogLost, mDelivered,
}

// Metrics lists what a server shows, besides its calls.
func Metrics() []*metrics.Metric { return serverMetrics }

func serverGauge(name, help, aws string, labels ...string) *metrics.Metric {
	return &metrics.Metric{Name: name, Type: metrics.Gauge, Help: help, AWS: aws, Labels: labels}
}

func serverCounter(name, help, aws string, labels ...string) *metrics.Metric {
	return &metrics.Metric{Name: name, Type: metrics.Counter, Help: help, AWS: aws, Labels: labels}
}

// serverFigures are counted as things happen.
type serverFigures struct {
	requests        *metrics.Counts
	durations       *metrics.Histogram
	stored, refused *atomic.Uint64 // flow records
}

func newServerFigures() serverFigures {
	return serverFigures{
		requests: metrics.NewCounts("culvert_api_requests_total", "Calls, by operation and status of the answer.", "operation", "status"),
		durations: metrics.NewHistogram("culvert_api_request_duration_seconds", "Of calls, without those that stream.",
			"operation"),
		stored: new(atomic.Uint64), refused: new(atomic.Uint64),
	}
}

// measure counts an operation's calls. A stream's duration says nothing.
func (s *Server) measure(operation string) func(huma.Context, func(huma.Context)) {
	return func(c huma.Context, next func(huma.Context)) {
		began := time.Now()
		next(c)
		s.figures.requests.WithLabelValues(operation, strconv.Itoa(c.Status())).Inc()
		if c.Operation().Responses["200"] == nil || c.Operation().Responses["200"].Content[ndjson] == nil {
			s.figures.durations.WithLabelValues(operation).Observe(time.Since(began).Seconds())
		}
	}
}

// registry has the server's figures.
func (s *Server) registry() *metrics.Registry {
	return metrics.NewRegistry(s.figures.requests, s.figures.durations, metrics.NewSource(serverMetrics, s.emit))
}

// emit reads all there is, of one snapshot.
func (s *Server) emit(emit metrics.Emit) {
	r, now := s.store.Snapshot(), s.cfg.Now()
	emit(mRevision, float64(r.Revision))
	for _, k := range api.Kinds {
		n := 0
		r.Each(k, func(api.Resource) bool { n++; return true })
		emit(mResources, float64(n), string(k))
	}
	s.emitEndpoints(r, emit)
	states := map[api.NodeState]int{api.NodeReady: 0, api.NodeDraining: 0, api.NodeRevoked: 0}
	for _, n := range r.Nodes {
		states[n.State]++
		if _, st := s.hub.get(n.ID, now); n.State != api.NodeRevoked && st != nil {
			emit(mNodeProblems, float64(len(s.hub.withProblems(n.ID, st).Errors)), n.Name)
		}
	}
	for state, n := range states {
		emit(mNodes, float64(n), string(state))
	}
	s.emitTargets(r, emit)
	live := s.convergence(r, r.Revision)
	emit(mNodesLive, float64(live.Nodes))
	emit(mNodesWaiting, float64(len(live.Waiting)))
	emit(mViewStreams, float64(s.hub.streaming()))
	emit(mProblems, float64(len(s.problems.all())))
	audited, _ := s.store.Audited()
	emit(mUnsealed, float64(audited-min(audited, s.sealing.sealed.Load())))
	emit(mCAExpiry, float64(s.ca.NotAfter().Unix()))
	for account, n := range s.growth.all() {
		emit(mAuditBytes, float64(n), account)
	}
	emit(mFlowsStored, float64(s.figures.stored.Load()))
	emit(mFlowsRefused, float64(s.figures.refused.Load()))
	for id := range r.FlowLogs {
		if d := s.delivery.State(id); d != nil {
			failing := 0.0
			if d.Status == api.DeliverFailed {
				failing = 1
			}
			emit(mFlowLogFailing, failing, id)
			emit(mFlowLogObjects, float64(d.Objects), id)
			emit(mFlowLogLost, float64(d.LostRecords), id)
		}
	}
	for account, n := range s.room.Used() {
		emit(mDelivered, float64(n), account)
	}
	if s.evidence != nil {
		segments, refused := s.evidence.Figures()
		emit(mSegments, float64(segments))
		emit(mBadSegments, float64(refused))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if fill, err := s.store.Fill(ctx); err == nil {
		emit(mStoreFill, fill)
	}
}

func (s *Server) emitEndpoints(r *api.Resources, emit metrics.Emit) {
	states, available := map[api.ConnectionState]int{}, map[string]int{}
	for _, e := range r.Endpoints {
		states[e.State]++
		if e.State == api.Available {
			available[e.Service]++
		}
	}
	for state, n := range states {
		emit(mEndpoints, float64(n), string(state))
	}
	for id, service := range r.Services {
		emit(mServiceEndpoints, float64(available[id]), id, (&call{r: r}).serviceName(service))
	}
}
