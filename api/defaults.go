package api

import "encoding/json"

// Records of before have no field that came later. Where zero is not the default of such a field, decoding starts from the
// default.

// UnmarshalJSON sets the weight that targets had before there were weights.
func (t *Target) UnmarshalJSON(b []byte) error {
	type plain Target
	p := plain{Weight: DefaultTargetWeight}
	err := json.Unmarshal(b, &p)
	*t = Target(p)
	return err
}

// UnmarshalJSON sets the default delay and health check.
func (g *TargetGroup) UnmarshalJSON(b []byte) error {
	type plain TargetGroup
	p := plain{DeregistrationDelaySeconds: DefaultDeregistrationDelay, UnhealthyConnectionTermination: true,
		MinimumHealthyTargets: MinimumHealthy{Count: 1}}
	err := json.Unmarshal(b, &p)
	if p.HealthCheck == (HealthCheck{}) {
		p.HealthCheck = DefaultHealthCheck(p.Protocol)
	}
	*g = TargetGroup(p)
	return err
}

// UnmarshalJSON turns cross-zone load balancing on, as it always was.
func (b *LoadBalancer) UnmarshalJSON(data []byte) error {
	type plain LoadBalancer
	p := plain{CrossZone: true}
	err := json.Unmarshal(data, &p)
	*b = LoadBalancer(p)
	return err
}
