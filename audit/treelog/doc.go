// Package treelog is the mesh's Merkle log: append-only, in files as C2SP tlog-tiles has them, with a signed checkpoint over every entry
// within a minute, cosigned by witnesses if there are any.
package treelog
