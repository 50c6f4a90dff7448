package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// PrivateNames are a service's private names, also of a record that knows one only.
func (s *Service) PrivateNames() []string {
	if len(s.PrivateDNSNames) == 0 && s.PrivateDNSName != "" {
		return []string{s.PrivateDNSName}
	}
	return s.PrivateDNSNames
}

// Priority of an endpoint for private names.
func (p *Endpoint) Priority() uint16 { return cmp.Or(p.PrivateDNSPriority, DefaultPrivateDNSPriority) }

// EndpointSuffix is what AWS-shaped names have behind an endpoint's id: 7 letters and digits that follow from it.
func EndpointSuffix(endpoint string) string {
	sum := sha256.Sum256([]byte(endpoint))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:7])
}
