package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/badinput"
)

// TestBadAttachments: what is no network namespace is told from one without waiting for it or acting on it.
func TestBadAttachments(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := unix.Mkfifo(in("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(socket, &unix.SockaddrUnix{Name: in("socket")})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	for _, link := range [][2]string{{in("loop"), in("loop")}, {"/dev/null", in("device")}, {in("gone"), in("dangling")}} {
		if err := os.Symlink(link[0], link[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(in("file"), []byte("net"), 0o600); err != nil {
		t.Fatal(err)
	}
	const eni = "eni-0a1b2c3d4e5f60718"
	var rows []badinput.Row[local.AttachRequest]
	add := func(name string, r local.AttachRequest, field, remedy string) {
		rows = append(rows, badinput.Row[local.AttachRequest]{Name: name, In: r, Code: api.CodeInvalidParameter, Field: field,
			Remedy: remedy})
	}
	for name, path := range map[string]string{
		"a FIFO": in("fifo"), "a device": "/dev/null", "a link to a device": in("device"), "a socket": in("socket"),
		"a file": in("file"), "a directory": dir,
		"nothing": in("gone"), "a link to nothing": in("dangling"), "a file as directory": in("file") + "/net",
		"another namespace":      "/proc/self/ns/uts",
		"a process that is none": "/proc/0/ns/net", "a process of -1": "/proc/-1/ns/net",
		"a process beyond the last": "/proc/4194305/ns/net", "the root": "/",
		"dots": "/run/netns/../../nothing", "all of /proc": "/proc", "a name of 255": "/run/netns/" + strings.Repeat("n", 255),
	} {
		add("netns: "+name, local.AttachRequest{ENI: eni, Netns: path}, "netns", "ip netns add")
	}
	for name, path := range map[string]string{"none": "", "a name": "cart", "relative": "../cart", "NUL": "/run/netns/a\x00b",
		"a line's end":        "/run/netns/a\nb",
		"a terminal's escape": "/run/\x1b[2J", "right-to-left override": "/run/netns/\u202e", "not UTF-8": "/run/netns/\xff",
		"5000 bytes": "/" + strings.Repeat("n", 5000)} {
		add("path: "+name, local.AttachRequest{ENI: eni, Netns: path}, "netns", "/run/netns/cart")
	}
	for name, id := range map[string]string{"none": "", "a space": "eni 1", "a path": "../eni-1", "a line's end": "eni-1\n",
		"a flag": "-f", "NUL": "\x00", "65": strings.Repeat("e", 65)} {
		add("eni: "+name, local.AttachRequest{ENI: id, Netns: in("gone")}, "eniId", "eni-0a1b2c3d4e5f60718")
	}
	for name, link := range map[string]string{"16 characters": strings.Repeat("i", 16), "a slash": "a/b", "dots": "..",
		"a dot": ".", "a space": "a b", "a colon": "eth0:1", "a flag": "-f",
		"a line's end": "a\nb", "NUL": "a\x00b", "an umlaut": "\u00e4th0", "a percent": "eth%d"} {
		add("interface: "+name, local.AttachRequest{ENI: eni, Netns: in("gone"), Interface: link}, "interface", "15 letters")
	}
	badinput.Table(t, rows, func() any { return listing(t, dir) }, func(_ *testing.T, r local.AttachRequest) error {
		att, err := attachment(r)
		if err != nil {
			return err
		}
		ns, err := (namespaces{}).Open(att.Netns)
		if err != nil {
			return linkError(err)
		}
		return ns.Close()
	})
	err = linkError(fmt.Errorf("attach: %w", &host.OwnNamespaceError{Path: "/proc/1/ns/net"}))
	badinput.Check(t, err, api.CodeInvalidParameter, "netns", "workload's own")
}

// listing is what lies in a directory, with types and sizes.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprint(e.Name(), info.Mode(), info.Size(), info.ModTime()))
	}
	return out
}
