//go:build !failpoints

package failpoint

// Here is a point. Its name is a constant, and stands at one place only.
func Here(string) {}
