// Package exchange runs a node's part in the health of targets: it probes its own, tells other nodes of them and hears theirs.
// What comes of it is decided by agent/health; here are the loop, the socket and the clock.
package exchange
