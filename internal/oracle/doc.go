// Package oracle watches a mesh while something is done to it: what must not pass, what must go on, and whether every
// packet is accounted for. All of it runs in the process of the test, on sockets inside the workloads' namespaces, so that
// a moment means the same everywhere.
//
// [Forbidden] sends what must never arrive, and listens where it would. [Flows] are connections that must live and answer
// right; a [Stream] is datagrams with numbers, of which a lost one is seen. A [Ledger] compares what a node's programs
// counted with what they decided, and with the flow records. [Times] are measured, and told with their number.
package oracle

// Magic stands in everything that the oracles send: it must not be seen on an underlay.
const Magic = "CULVERT-ORACLE-7f3a"
