// Package version says which build this is.
package version

import "runtime/debug"

// stamp is set by the linker: -X github.com/culvert-net/culvert/internal/version.stamp=v1.2.3
var stamp string

// Version is the stamped version, else the commit the binary was built from, else "devel".
func Version() string {
	if stamp != "" {
		return stamp
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return "devel-" + s.Value[:12]
			}
		}
	}
	return "devel"
}
