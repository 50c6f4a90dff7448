package host

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParseMounts(t *testing.T) {
	const text = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
470 469 0:55 / /a\040b\134c rw master:7 propagate_from:2 - tmpfs tmpfs rw
471 470 0:56 /resolv.conf /etc/resolv.conf ro,nosuid shared:9 master:1 - tmpfs culvert:eni-0cart:5f:true:7 rw,size=64k
472 471 0:57 / /x rw - tmpfs culvert:eni-0cart:5f rw
473 471 0:57 / /y rw - ext4 culvert:eni-0cart:5f:true:7 rw
`
	parse := func(text string, most int64) (out []mountPoint, read int64, err error) {
		read, err = scanMounts(strings.NewReader(text), most, func(m mountPoint) error {
			out = append(out, m)
			return nil
		})
		return out, read, err
	}
	got, read, err := parse(text, int64(len(text)))
	want := []mountPoint{
		{22, "/", 1, 0, "ext4", "/dev/sda1"},
		{470, `/a b\c`, 0, 7, "tmpfs", "tmpfs"},
		{471, "/etc/resolv.conf", 9, 1, "tmpfs", "culvert:eni-0cart:5f:true:7"},
		{472, "/x", 0, 0, "tmpfs", "culvert:eni-0cart:5f"},
		{473, "/y", 0, 0, "ext4", "culvert:eni-0cart:5f:true:7"},
	}
	if err != nil || !slices.Equal(got, want) || read != int64(len(text)) {
		t.Fatalf("%+v, %v; want\n%+v", got, err, want)
	}
	for i, m := range got {
		k, ok := markOf(m)
		if ok != (i == 2) || ok && (k != mark{"eni-0cart", "5f", true, 7} || k.String() != m.source) {
			t.Errorf("mark of %+v: %+v, %v", m, k, ok)
		}
	}
	for _, bad := range []string{"\n", "22 1 8:1 / / rw - ext4\n", "x 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
		"22 1 8:1 / / rw shared:1 ext4 /dev/sda1 rw\n", "22 1 8:1 / / rw shared:x - ext4 /dev/sda1 rw\n"} {
		if got, _, err := parse(bad, 1000); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
	for most := range len(text) {
		if got, read, err := parse(text, int64(most)); !errors.Is(err, errCrowded) || read != int64(most) || len(got) >= len(want) {
			t.Errorf("of %d bytes: %d mounts, %d bytes, %v", most, len(got), read, err)
		}
	}
	if _, _, err := parse(strings.Repeat("x", maxLine+1), 1<<30); !errors.Is(err, errCrowded) {
		t.Errorf("a line without end: %v", err)
	}
}

// What is mounted in a group reaches its members, its slaves, and what those give on.
func TestPropagation(t *testing.T) {
	a, b, c, d, e := fileID{1, 1}, fileID{1, 2}, fileID{1, 3}, fileID{1, 4}, fileID{1, 5}
	g := propagation{
		a: {{1, 1}: true}, // member
		b: {{1, 0}: true}, // slave
		c: {{1, 2}: true, {2, 2}: true},
		d: {{2, 0}: true}, // a slave of who is both
		e: {{3, 0}: true}, // a slave of others
	}
	got := g.from(1)
	for _, x := range []fileID{a, b, c, d} {
		if !got[x] {
			t.Errorf("%v is not reached", x)
		}
	}
	if got[e] || len(g.from(0)) != 0 {
		t.Errorf("reached %v, of no group %v", got, g.from(0))
	}
}
