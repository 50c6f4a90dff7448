package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// mountPoint is a line of /proc/PID/mountinfo, as far as this package needs it.
type mountPoint struct {
	id     uint64
	path   string // as the process sees it
	peers  uint64 // group that gets every mount made below this one; 0: nobody else does
	master uint64 // group whose mounts this one gets; 0: none
	fstype string
	source string
}

// errCrowded says that a mountinfo has more than is read of one: what users mount in namespaces of their own is not limited.
var errCrowded = errors.New("more mounts than are looked at")

// maxLine is the most that a line of mountinfo can have, in bytes: four paths with every character escaped, and options.
const maxLine = 256 << 10

// scanMounts reads a mountinfo line by line, at most that many bytes; proc_pid_mountinfo(5) has the format. It returns how
// many there were; beyond them is errCrowded. An error of each ends it.
func scanMounts(r io.Reader, most int64, each func(mountPoint) error) (read int64, err error) {
	limited := &io.LimitedReader{R: r, N: most + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(make([]byte, 0, 16<<10), maxLine)
	for lines.Scan() {
		if limited.N == 0 {
			break
		}
		m, err := parseMount(lines.Text())
		if err != nil {
			return most + 1 - limited.N, fmt.Errorf("mountinfo: %w", err)
		}
		if err := each(m); err != nil {
			return most + 1 - limited.N, err
		}
	}
	if limited.N == 0 || errors.Is(lines.Err(), bufio.ErrTooLong) {
		return most, errCrowded
	}
	return most + 1 - limited.N, lines.Err()
}

// parseMount reads: id parent major:minor root path options [tag[:value]…] - fstype source options.
func parseMount(line string) (m mountPoint, err error) {
	f := strings.Split(line, " ")
	const tags = 6
	dash := tags
	for dash < len(f) && f[dash] != "-" {
		tag, group, _ := strings.Cut(f[dash], ":")
		to := map[string]*uint64{"shared": &m.peers, "master": &m.master}[tag]
		if to != nil {
			if *to, err = strconv.ParseUint(group, 10, 64); err != nil {
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
// need be remembered of it. Who may mount can write one. Among mounts of the agent's own user namespace that is root, and it
// is believed. Those of another belong to who made it: there it only tells what may be taken away.
type mark struct {
	eni  string
	sum  string // of the file's text
	made bool   // an empty file was made to mount it on
	host uint64 // cookie of the namespace that the agent has as the host's: there may be several agents, as in a dev mesh
}

func (m mark) String() string {
	return fmt.Sprintf("%s%s:%s:%t:%d", aliasPrefix, m.eni, m.sum, m.made, m.host)
}

// markOf reads the mark of a mount; ok is false for one that is not ours.
func markOf(p mountPoint) (m mark, ok bool) {
	rest, ok := strings.CutPrefix(p.source, aliasPrefix)
	f := strings.Split(rest, ":")
	if !ok || p.fstype != markType || len(f) != 4 || f[0] == "" {
		return mark{}, false
	}
	made, err := strconv.ParseBool(f[2])
	host, err2 := strconv.ParseUint(f[3], 10, 64)
	return mark{f[0], f[1], made, host}, err == nil && err2 == nil
}

// markType is the file system that resolver files are in.
const markType = "tmpfs"
