// Package leaf has the entries of the mesh's Merkle log: what the server found worth proving. docs/EVIDENCE.md lists them.
package leaf
