package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strings"
)

// PrivateNames are a service's private names, also of a record that knows one only.
func (s *Service) PrivateNames() []string {
	if len(s.PrivateDNSNames) == 0 && s.PrivateDNSName != "" {
		return []string{s.PrivateDNSName}
	}
	return s.PrivateDNSNames
}

// SetPrivateNames replaces them.
func (s *Service) SetPrivateNames(names []string) {
	s.PrivateDNSNames, s.PrivateDNSName = names, ""
	if len(names) > 0 {
		s.PrivateDNSName = names[0]
	}
}

func (s *Service) validateNames() *Error {
	names := s.PrivateNames()
	if len(names) > MaxPrivateNamesPerService {
		return Errorf(CodeLimitExceeded, "privateDnsNames", "remove some", "%d private names, at most %d are allowed", len(names),
			MaxPrivateNamesPerService)
	}
	for i, n := range names {
		if e := ValidatePrivateDNSName("privateDnsNames", n); e != nil {
			return e
		}
		if slices.Contains(names[:i], n) {
			return invalid("privateDnsNames", "give it once", "%s is given twice", n)
		}
	}
	return nil
}

// Priority of an endpoint for private names.
func (p *Endpoint) Priority() uint16 { return cmp.Or(p.PrivateDNSPriority, DefaultPrivateDNSPriority) }

// EndpointSuffix is what AWS-shaped names have behind an endpoint's id: 7 letters and digits that follow from it.
func EndpointSuffix(endpoint string) string {
	sum := sha256.Sum256([]byte(endpoint))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:7])
}
