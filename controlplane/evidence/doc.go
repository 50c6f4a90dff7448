// Package evidence keeps what nodes wrote of flows and queries, byte for byte, in segments that nodes sealed. Each seal is a leaf of
// the mesh's Merkle log before its segment is where an auditor looks; docs/EVIDENCE.md has the layout, decision 0025 the order of
// writes, and why a crash between any two of them loses nothing that was acknowledged.
package evidence
