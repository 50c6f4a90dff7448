package api

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// codes are the bounds of what a matcher may name: of HTTP those of a status (AWS's), of gRPC its codes (AWS's).
var healthCodes = map[HealthProtocol][2]int{HealthHTTP: {200, 599}, HealthHTTPS: {200, 599}, HealthGRPC: {0, 99}}

// validate checks a target group's health check; fields are those of the API.
func (h *HealthCheck) validate() *Error {
	between := func(field string, n, low, high uint32) *Error {
		if n < low || n > high {
			return invalid("healthCheck."+field, fmt.Sprintf("give %d to %d", low, high), "%d is out of range", n)
		}
		return nil
	}
	for _, e := range []*Error{
		h.validateProtocol(), h.validatePort(), h.validatePath(), h.validateMatcher(),
		between("intervalSeconds", h.IntervalSeconds, 1, MaxHealthInterval),
		between("timeoutSeconds", h.TimeoutSeconds, 1, MaxHealthTimeout),
		between("healthyThreshold", h.HealthyThreshold, MinHealthThreshold, MaxHealthThreshold),
		between("unhealthyThreshold", h.UnhealthyThreshold, MinHealthThreshold, MaxHealthThreshold),
	} {
		if e != nil {
			return e
		}
	}
	if h.TimeoutSeconds > h.IntervalSeconds {
		return Errorf(CodeInvalidCombination, "healthCheck.timeoutSeconds", fmt.Sprintf("give 1 to %d, or a longer interval", h.IntervalSeconds),
			"a timeout of %d s is longer than the interval of %d s", h.TimeoutSeconds, h.IntervalSeconds)
	}
	return nil
}

func (h *HealthCheck) validateProtocol() *Error {
	switch h.Protocol {
	case HealthTCP, HealthHTTP, HealthHTTPS, HealthGRPC:
		return nil
	}
	return invalid("healthCheck.protocol", "use TCP, HTTP, HTTPS or GRPC", "%q is no protocol of a health check", Shortened(string(h.Protocol)))
}

func (h *HealthCheck) validatePort() *Error {
	if h.Port == TrafficPort {
		return nil
	}
	n, err := strconv.ParseUint(h.Port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != h.Port {
		return invalid("healthCheck.port", "give 1 to 65535, or traffic-port", "%q is no port", Shortened(h.Port))
	}
	return nil
}

// validatePath: what goes on the wire behind GET, or is a name.
func (h *HealthCheck) validatePath() *Error {
	const field = "healthCheck.path"
	odd := func(c rune) bool { return c <= ' ' || c > '~' }
	switch {
	case len(h.Path) > MaxHealthPathLen || strings.ContainsFunc(h.Path, odd):
		return invalid(field, fmt.Sprintf("use at most %d printable ASCII characters without spaces", MaxHealthPathLen),
			"the path %q is malformed", Shortened(h.Path))
	case h.Protocol == HealthTCP && h.Path != "":
		return Errorf(CodeInvalidCombination, field, "leave it out, or give the protocol HTTP, HTTPS or GRPC", "a TCP check has no path")
	case (h.Protocol == HealthHTTP || h.Protocol == HealthHTTPS) && (!strings.HasPrefix(h.Path, "/") || strings.Contains(h.Path, "#")):
		return invalid(field, "begin it with /, such as /healthz", "the path %q is malformed", Shortened(h.Path))
	case (h.Protocol == HealthHTTP || h.Protocol == HealthHTTPS) && !isPath(h.Path):
		return invalid(field, "begin it with one /, and write a % as %25", "the path %q is none of a URL", Shortened(h.Path))
	case h.Protocol == HealthGRPC && strings.HasPrefix(h.Path, "/"):
		return invalid(field, "give the name of a gRPC service, such as ledger.v1.Ledger, or nothing", "%q is no service's name",
			Shortened(h.Path))
	}
	return nil
}

// isPath: a URL may have it behind its host, and it names no host itself.
func isPath(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "" && u.Host == "" && u.User == nil
}

func (h *HealthCheck) validateMatcher() *Error {
	const field = "healthCheck.matcher"
	bounds, has := healthCodes[h.Protocol]
	if !has {
		if h.Matcher != "" {
			return Errorf(CodeInvalidCombination, field, "leave it out, or give the protocol HTTP, HTTPS or GRPC", "a TCP check has no codes")
		}
		return nil
	}
	ranges, err := parseMatcher(h.Matcher)
	bad := err != nil || len(h.Matcher) > MaxHealthMatcherLen
	for _, r := range ranges {
		bad = bad || r[0] < bounds[0] || r[1] > bounds[1]
	}
	if bad {
		return invalid(field, fmt.Sprintf("give codes from %d to %d, such as %d-%d or %d,%d", bounds[0], bounds[1], bounds[0], bounds[1],
			bounds[0], bounds[0]+4), "%q names no such codes", Shortened(h.Matcher))
	}
	return nil
}

// validateHealth checks what a target group says of health.
func (g *TargetGroup) validateHealth() *Error {
	m := g.MinimumHealthyTargets
	switch {
	case g.UnhealthyDrainingIntervalSeconds > MaxUnhealthyDraining:
		return invalid("unhealthyDrainingIntervalSeconds", fmt.Sprintf("give 0 to %d", MaxUnhealthyDraining), "%d s is out of range",
			g.UnhealthyDrainingIntervalSeconds)
	case g.UnhealthyDrainingIntervalSeconds > 0 && !g.UnhealthyConnectionTermination:
		return Errorf(CodeInvalidCombination, "unhealthyDrainingIntervalSeconds", "leave it out, or turn unhealthyConnectionTermination on",
			"flows of unhealthy targets are not ended, so there is nothing to wait for")
	case g.SlowStartSeconds != 0 && (g.SlowStartSeconds < MinSlowStart || g.SlowStartSeconds > MaxSlowStart):
		return invalid("slowStartSeconds", fmt.Sprintf("give 0, or %d to %d", MinSlowStart, MaxSlowStart), "%d s is out of range",
			g.SlowStartSeconds)
	case m.Count < 1 || m.Count > MaxTargetsPerGroup:
		return invalid("minimumHealthyTargets.count", fmt.Sprintf("give 1 to %d", MaxTargetsPerGroup), "%d is out of range", m.Count)
	case m.Percentage > 100:
		return invalid("minimumHealthyTargets.percentage", "give 1 to 100, or 0 for none", "%d is out of range", m.Percentage)
	}
	return g.HealthCheck.validate()
}
