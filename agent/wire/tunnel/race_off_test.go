//go:build !race

package tunnel_test

// raceEnabled tells that the race detector's memory is added to a process's own.
const raceEnabled = false
