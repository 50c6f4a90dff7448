// Package failpoint names the moments at which a process may be killed to see what it leaves: between two changes of the
// kernel, of a file, or of the store. A program that is built as usual has none of it: Here is empty then, and inlined.
//
// Built with the tag failpoints, a process whose environment names a directory in [Env] counts how often it passes each
// point (a byte per time in DIR/NAME.passed), and kills itself with SIGKILL where DIR/NAME.armed is: its text says at which
// passing, counted from when the process saw it first. The file is removed before, so that the process that follows lives.
//
// Such a process also has a wall clock that can be set while it runs: [Now].
package failpoint

// Env names the directory; each process has one of its own.
const Env = "CULVERT_FAILPOINTS"

// Names of a point's files.
const (
	Passed = ".passed"
	Armed  = ".armed"
)

// ClockFile is the name of the file in the directory that says how far the clock of [Now] is ahead of the machine's, as Go writes durations; it
// is to be replaced as a whole.
const ClockFile = "clock"
