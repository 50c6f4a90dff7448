package host

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// FuzzScanMounts: users write much of what a mountinfo says. No more is read than may be, whole lines only, and each mount is one line.
func FuzzScanMounts(f *testing.F) {
	f.Add([]byte("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"), uint16(1000))
	f.Add([]byte("7 6 0:5 / /a\\040b\\134 rw shared:9 master:1 - tmpfs culvert:eni-1:ab:true:42 rw\n7 6 0:5 / / rw\n"), uint16(1000))
	f.Add([]byte("1 2 0:5 / / rw - tmpfs a rw\n1 2 0:5 / / rw - tmpfs a rw\n"), uint16(30))
	f.Fuzz(func(t *testing.T, text []byte, most uint16) {
		seen := 0
		read, err := scanMounts(bytes.NewReader(text), int64(most), func(m mountPoint) error {
			seen++
			if strings.ContainsAny(m.fstype, " \n") {
				t.Errorf("file system %q", m.fstype)
			}
			return nil
		})
		if read > int64(most) || read > int64(len(text)) && !errors.Is(err, errCrowded) {
			t.Errorf("%d of %d bytes were read, of %d at most", read, len(text), most)
		}
		if lines := bytes.Count(text, []byte("\n")) + 1; seen > lines {
			t.Errorf("%d mounts in %d lines", seen, lines)
		}
		if err == nil && len(text) > int(most) {
			t.Errorf("%d bytes are more than %d, and nothing is said", len(text), most)
		}
	})
}

// FuzzParseMount: what the kernel escapes comes back as it was, and what a source says of a mark is that mark.
func FuzzParseMount(f *testing.F) {
	f.Add("/run/a b", "culvert:eni-1:ab:true:42")
	f.Add("/\\#\t\n", "culvert:eni-1:ab:1:042")
	f.Add("/\\040", "culvert::ab:true:42")
	escape := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`)
	f.Fuzz(func(t *testing.T, path, source string) {
		m, err := parseMount("36 35 98:0 / " + escape.Replace(path) + " rw shared:3 - " + markType + " " + escape.Replace(source) + " rw")
		if err != nil || m.id != 36 || m.peers != 3 || m.path != path || m.source != source || m.fstype != markType {
			t.Fatalf("%q mounted on %q: %+v, %v", source, path, m, err)
		}
		k, ok := markOf(m)
		if !ok {
			return
		}
		again, ok := markOf(mountPoint{fstype: markType, source: k.String()})
		if !ok || again != k || k.eni == "" {
			t.Errorf("%q is %+v, and written and read again %+v (%t)", source, k, again, ok)
		}
		m.fstype = "ext4"
		if _, ok := markOf(m); ok {
			t.Errorf("%+v of another file system is taken for a mark", m)
		}
	})
}
