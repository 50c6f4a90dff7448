// Package seal is how a node closes a segment of its flow log: one line behind the segment's records that says how many there are,
// their hash, the hash of the seal before, where the datapath's counters stood, what is lost, and the node's signature over all of it.
// docs/EVIDENCE.md has the format for those who write a verifier of their own.
package seal
