package api

// GroupHealthRequest is what the requests about a target group say of health; nil leaves a field as it is, or as it is by default.
type GroupHealthRequest struct {
	HealthCheck                      *HealthCheckRequest    `json:"healthCheck,omitempty"`
	UnhealthyConnectionTermination   *bool                  `json:"unhealthyConnectionTermination,omitempty"`
	UnhealthyDrainingIntervalSeconds *uint32                `json:"unhealthyDrainingIntervalSeconds,omitempty"`
	SlowStartSeconds                 *uint32                `json:"slowStartSeconds,omitempty"`
	MinimumHealthyTargets            *MinimumHealthyRequest `json:"minimumHealthyTargets,omitempty"`
}

// HealthCheckRequest changes a HealthCheck; nil leaves a field as it is. Another protocol brings its own path and matcher.
type HealthCheckRequest struct {
	Enabled            *bool           `json:"enabled,omitempty"`
	Protocol           *HealthProtocol `json:"protocol,omitempty"`
	Port               *string         `json:"port,omitempty"`
	Path               *string         `json:"path,omitempty"`
	Matcher            *string         `json:"matcher,omitempty"`
	IntervalSeconds    *uint32         `json:"intervalSeconds,omitempty"`
	TimeoutSeconds     *uint32         `json:"timeoutSeconds,omitempty"`
	HealthyThreshold   *uint32         `json:"healthyThreshold,omitempty"`
	UnhealthyThreshold *uint32         `json:"unhealthyThreshold,omitempty"`
}

// MinimumHealthyRequest changes a MinimumHealthy; nil leaves a field as it is.
type MinimumHealthyRequest struct {
	Count      *uint32 `json:"count,omitempty"`
	Percentage *uint32 `json:"percentage,omitempty"`
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// Apply changes a target group as the request says.
func (r *GroupHealthRequest) Apply(g *TargetGroup) {
	if r.HealthCheck != nil {
		r.HealthCheck.apply(&g.HealthCheck)
	}
	set(&g.UnhealthyConnectionTermination, r.UnhealthyConnectionTermination)
	if !g.UnhealthyConnectionTermination {
		g.UnhealthyDrainingIntervalSeconds = 0 // of no use now, unless the request says it all the same
	}
	set(&g.UnhealthyDrainingIntervalSeconds, r.UnhealthyDrainingIntervalSeconds)
	set(&g.SlowStartSeconds, r.SlowStartSeconds)
	if m := r.MinimumHealthyTargets; m != nil {
		set(&g.MinimumHealthyTargets.Count, m.Count)
		set(&g.MinimumHealthyTargets.Percentage, m.Percentage)
	}
}

func (r *HealthCheckRequest) apply(h *HealthCheck) {
	set(&h.Enabled, r.Enabled)
	if r.Protocol != nil && *r.Protocol != h.Protocol {
		h.Protocol, h.Path, h.Matcher = *r.Protocol, "", ""
		switch h.Protocol {
		case HealthHTTP, HealthHTTPS:
			h.Path, h.Matcher = "/", "200-399"
		case HealthGRPC:
			h.Matcher = "0"
		}
	}
	set(&h.Port, r.Port)
	set(&h.Path, r.Path)
	set(&h.Matcher, r.Matcher)
	if r.IntervalSeconds != nil {
		h.IntervalSeconds = *r.IntervalSeconds
		if r.TimeoutSeconds == nil && h.IntervalSeconds > 0 {
			h.TimeoutSeconds = min(h.TimeoutSeconds, h.IntervalSeconds)
		}
	}
	set(&h.TimeoutSeconds, r.TimeoutSeconds)
	set(&h.HealthyThreshold, r.HealthyThreshold)
	set(&h.UnhealthyThreshold, r.UnhealthyThreshold)
}
