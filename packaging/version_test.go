package main

import "testing"

func TestPackageVersion(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3":                  "1.2.3",
		"1.2.3":                   "1.2.3",
		"v1.2.3-dirty":            "1.2.3+dirty",
		"v1.2.3-rc.1":             "1.2.3~rc.1",
		"v1.2.3-7-g0a1b2c":        "1.2.3+7.g0a1b2c",
		"v1.2.3-rc.1-7-gab-dirty": "1.2.3~rc.1+7.gab.dirty",
		"devel-0a1b2c3d4e5f":      "0~devel.0a1b2c3d4e5f",
		"devel":                   "0~devel",
	} {
		if got := packageVersion(version); got != want {
			t.Errorf("%s: %s, want %s", version, got, want)
		}
	}
}
