// Package view computes what one node may know: from a picture of everything, the slice that the node needs for what it
// hosts. It is pure, and deterministic: the same picture gives the same view, sorted.
//
// A node needs: its own workloads and their VPCs (groups, addresses, names, endpoints); grants for targets that it hosts;
// and as peers the nodes that share a VPC with it or sit at the other end of an Available connection, each with exactly
// the overlay prefixes that the peer hosts in the VPCs which the two have in common.
package view
