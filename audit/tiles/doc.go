// Package tiles is the Merkle tree of a log as C2SP tlog-tiles lays it out in files: RFC 6962 hashes, tiles of 256, bundles of entries.
// It computes and compares; it reads and writes no files.
package tiles
