package host

import (
	"slices"
	"testing"
)

func TestParseMounts(t *testing.T) {
	const text = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
470 469 0:55 / /a\040b\134c rw master:7 propagate_from:2 - tmpfs tmpfs rw
471 470 0:56 /resolv.conf /etc/resolv.conf ro,nosuid shared:9 master:1 - tmpfs culvert:eni-0cart:5f:true rw,size=64k
472 471 0:57 / /x rw - tmpfs culvert:eni-0cart:5f rw
473 471 0:57 / /y rw - ext4 culvert:eni-0cart:5f:true rw
`
	got, err := parseMounts([]byte(text))
	want := []mountPoint{
		{22, "/", 1, "ext4", "/dev/sda1"},
		{470, `/a b\c`, 0, "tmpfs", "tmpfs"},
		{471, "/etc/resolv.conf", 9, "tmpfs", "culvert:eni-0cart:5f:true"},
		{472, "/x", 0, "tmpfs", "culvert:eni-0cart:5f"},
		{473, "/y", 0, "ext4", "culvert:eni-0cart:5f:true"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%+v, %v; want\n%+v", got, err, want)
	}
	for i, m := range got {
		k, ok := markOf(m)
		if ok != (i == 2) || ok && (k != mark{"eni-0cart", "5f", true} || k.String() != m.source) {
			t.Errorf("mark of %+v: %+v, %v", m, k, ok)
		}
	}
	for _, bad := range []string{"\n", "22 1 8:1 / / rw - ext4\n", "x 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
		"22 1 8:1 / / rw shared:1 ext4 /dev/sda1 rw\n", "22 1 8:1 / / rw shared:x - ext4 /dev/sda1 rw\n"} {
		if got, err := parseMounts([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}
