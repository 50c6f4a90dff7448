package main

import (
	"regexp"
	"strings"
)

var (
	described = regexp.MustCompile(`-(\d+)-g([0-9a-f]+)(-dirty)?$`)
	notPlain  = regexp.MustCompile(`[^A-Za-z0-9.+~]+`)
)

// packageVersion derives what both package managers order rightly: v1.2.3 is 1.2.3; v1.2.3-rc.1, before it, is
// 1.2.3~rc.1; seven commits after it, v1.2.3-7-gabc, is 1.2.3+7.gabc; a build without a tag is before every other.
func packageVersion(v string) string {
	base := strings.TrimPrefix(v, "v")
	if base == "" || base[0] < '0' || base[0] > '9' {
		return "0~" + strings.Trim(notPlain.ReplaceAllString(v, "."), ".")
	}
	after := ""
	if m := described.FindStringSubmatch(base); m != nil {
		base = strings.TrimSuffix(base, m[0])
		after = "+" + m[1] + ".g" + m[2] + strings.ReplaceAll(m[3], "-", ".")
	} else if rest, is := strings.CutSuffix(base, "-dirty"); is {
		base, after = rest, "+dirty"
	}
	base = strings.Replace(base, "-", "~", 1)
	return notPlain.ReplaceAllString(base+after, ".")
}
