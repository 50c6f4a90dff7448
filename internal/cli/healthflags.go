package cli

import (
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
)

// healthFlags are a target group's attributes of health.
type healthFlags struct {
	enabled, termination              bool
	protocol, port, path, matcher     string
	interval, timeout, draining, slow time.Duration
	healthy, unhealthy                uint32
	count, percentage                 uint32
}

func healthAttributes(c *cobra.Command) *healthFlags {
	h := new(healthFlags)
	f := c.Flags()
	f.BoolVar(&h.enabled, "health-check", true, "ask targets whether they work (default for tcp); without, all count as healthy")
	choice(c, &h.protocol, "health-protocol", string(api.HealthTCP), string(api.HealthTCP), string(api.HealthHTTP),
		string(api.HealthHTTPS), string(api.HealthGRPC))
	f.StringVar(&h.port, "health-port", api.TrafficPort, "`port` that targets are asked at")
	f.StringVar(&h.path, "health-path", "", "what HTTP asks for (default /), or the `name` of a gRPC service")
	f.StringVar(&h.matcher, "health-matcher", "", "`codes` that are good (default 200-399, of gRPC 0)")
	f.DurationVar(&h.interval, "health-interval", api.DefaultHealthInterval*time.Second, "how often a target is asked: 1s to 5m")
	f.DurationVar(&h.timeout, "health-timeout", api.DefaultHealthTimeout*time.Second, "how long an answer may take: 1s to 2m")
	f.Uint32Var(&h.healthy, "healthy-threshold", api.DefaultHealthThreshold, "good `answers` in a row until a target is healthy again: 2 to 10")
	f.Uint32Var(&h.unhealthy, "unhealthy-threshold", api.DefaultHealthThreshold, "bad `answers` in a row until a target is unhealthy: 2 to 10")
	f.BoolVar(&h.termination, "unhealthy-connection-termination", true, "end the flows of targets that are unhealthy")
	f.DurationVar(&h.draining, "unhealthy-draining-interval", 0, "how long an unhealthy target keeps its flows before: 0s to 100h")
	f.DurationVar(&h.slow, "slow-start", 0, "how long a target that became healthy takes to get its share: 0s, or 30s to 15m")
	f.Uint32Var(&h.count, "minimum-healthy-count", 1, "with fewer healthy `targets` all are used")
	f.Uint32Var(&h.percentage, "minimum-healthy-percentage", 0, "with a smaller `part` of them healthy all are used: 1 to 100")
	return h
}

// request is what the flags say that were given.
func (h *healthFlags) request(c *cobra.Command) (r api.GroupHealthRequest, err error) {
	seconds := func(name string, d time.Duration) *uint32 {
		if !c.Flags().Changed(name) {
			return nil
		}
		n := d / time.Second
		if d%time.Second != 0 || n < 0 || n > math.MaxUint32 {
			err = api.Errorf(api.CodeInvalidParameter, "--"+name, "give whole seconds, such as 30s", "%s is out of range", d)
			return nil
		}
		s := uint32(n)
		return &s
	}
	check := api.HealthCheckRequest{
		Enabled: given(c, "health-check", &h.enabled), Port: given(c, "health-port", &h.port), Path: given(c, "health-path", &h.path),
		Matcher:         given(c, "health-matcher", &h.matcher),
		IntervalSeconds: seconds("health-interval", h.interval), TimeoutSeconds: seconds("health-timeout", h.timeout),
		HealthyThreshold: given(c, "healthy-threshold", &h.healthy), UnhealthyThreshold: given(c, "unhealthy-threshold", &h.unhealthy),
	}
	protocol := api.HealthProtocol(h.protocol)
	check.Protocol = given(c, "health-protocol", &protocol)
	if check != (api.HealthCheckRequest{}) {
		r.HealthCheck = &check
	}
	minimum := api.MinimumHealthyRequest{
		Count: given(c, "minimum-healthy-count", &h.count), Percentage: given(c, "minimum-healthy-percentage", &h.percentage),
	}
	if minimum != (api.MinimumHealthyRequest{}) {
		r.MinimumHealthyTargets = &minimum
	}
	r.UnhealthyConnectionTermination = given(c, "unhealthy-connection-termination", &h.termination)
	r.UnhealthyDrainingIntervalSeconds = seconds("unhealthy-draining-interval", h.draining)
	r.SlowStartSeconds = seconds("slow-start", h.slow)
	return r, err
}

// given is a flag's value, nil if it was not given.
func given[T any](c *cobra.Command, name string, value *T) *T {
	if !c.Flags().Changed(name) {
		return nil
	}
	return value
}
