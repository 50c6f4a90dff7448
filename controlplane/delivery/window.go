package delivery

import (
	"time"
)

const (
	// fileWindow is over how much time a file goes; AWS's.
	fileWindow = 5 * time.Minute
)

// endOf is the end of the window that a moment is in.
func endOf(at time.Time, window time.Duration) time.Time {
	return at.UTC().Truncate(window).Add(window)
}
