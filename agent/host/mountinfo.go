package host

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// mountPoint is a line of /proc/PID/mountinfo, as far as this package needs it.
type mountPoint struct {
	id     uint64
	path   string // as the process sees it
	peers  uint64 // group that gets every mount made below this one; 0: nobody else does
	fstype string
	source string
}

// parseMounts reads a whole mountinfo; proc_pid_mountinfo(5) has the format.
func parseMounts(text []byte) ([]mountPoint, error) {
	var out []mountPoint
	for line := range bytes.Lines(text) {
		m, err := parseMount(strings.TrimSuffix(string(line), "\n"))
		if err != nil {
			return nil, fmt.Errorf("mountinfo: %w", err)
		}
		out = append(out, m)
	}
	return out, nil
}

// parseMount reads: id parent major:minor root path options [tag[:value]…] - fstype source options.
func parseMount(line string) (m mountPoint, err error) {
	f := strings.Split(line, " ")
	const tags = 6
	dash := tags
	for dash < len(f) && f[dash] != "-" {
		if group, ok := strings.CutPrefix(f[dash], "shared:"); ok {
			if m.peers, err = strconv.ParseUint(group, 10, 64); err != nil {
				return m, fmt.Errorf("%q: %w", line, err)
			}
		}
		dash++
	}
	if len(f) < dash+3 {
		return m, fmt.Errorf("%q: too few fields", line)
	}
	if m.id, err = strconv.ParseUint(f[0], 10, 64); err != nil {
		return m, fmt.Errorf("%q: %w", line, err)
	}
	m.path, m.fstype, m.source = unescape(f[4]), f[dash+1], unescape(f[dash+2])
	return m, nil
}

// unescape puts back what the kernel writes as three octal digits: space, tab, newline, backslash, number sign.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mark is what the file system of a resolver file that is mounted says about itself, as its source: so that nothing else
// need be remembered of it.
type mark struct {
	eni  string
	sum  string // of the file's text
	made bool   // an empty file was made to mount it on
}

func (m mark) String() string {
	return fmt.Sprintf("%s%s:%s:%t", aliasPrefix, m.eni, m.sum, m.made)
}

// markOf reads the mark of a mount; ok is false for one that is not ours.
func markOf(p mountPoint) (m mark, ok bool) {
	rest, ok := strings.CutPrefix(p.source, aliasPrefix)
	f := strings.Split(rest, ":")
	if !ok || p.fstype != markType || len(f) != 3 || f[0] == "" {
		return mark{}, false
	}
	made, err := strconv.ParseBool(f[2])
	return mark{f[0], f[1], made}, err == nil
}

// markType is the file system that resolver files are in.
const markType = "tmpfs"
