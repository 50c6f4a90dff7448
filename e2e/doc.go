// Package e2e holds the tests of the whole: a development mesh with real processes, unmodified programs in its workloads,
// faults, and a hostile host. They need root and make everything they use, under a name of their own.
package e2e
