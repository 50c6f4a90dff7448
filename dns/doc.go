// Package dns is a node's resolver. Every query comes from an overlay address, so its source names the VPC and the
// client: one socket serves all VPCs, each with its own names (package zone). Names that are not private go to the
// VPC's forwarders, over TLS unless the VPC's owner allowed plain DNS. A source that is no workload of a VPC served
// here gets no answer at all.
//
// Private names are answered within the reader's goroutine and need nothing but memory; only forwarding waits, in
// bounded goroutines.
//
// It speaks RFC 1035, 2308 (negative answers), 6891 (EDNS), 7766 (TCP), 7858 (DNS over TLS), 8467 (padding), 8482 (ANY)
// and 8767 (stale answers).
package dns
