//go:build !failpoints

package failpoint

import "time"

// Here is a point. Its name is a constant, and stands at one place only.
func Here(string) {}

// Now is the wall clock.
func Now() time.Time { return time.Now() }
