// Package api holds Culvert's resources: their types, identifiers, states, limits and validation. It is what the HTTP API
// speaks, what the store keeps and what everything else is computed from. It imports the standard library only and is
// pure: no clock, no randomness, no I/O.
//
// Addresses are netip values in textual form on the wire. Ports are 1 to 65535 unless said otherwise. Numbers (VPC.Number,
// ENI.Number, …) are small integers for the datapath, allocated by the control plane, never by a user.
package api
