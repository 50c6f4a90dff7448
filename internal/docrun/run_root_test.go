package docrun

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tool is a program that only machines of a test have.
func tool(t *testing.T) (programs string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\necho \"tool $*\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func runDoc(t *testing.T, within time.Duration, text string) (*runner, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces")
	}
	blocks, err := Parse("X.md", doc(text))
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{machines: machines{t: t, programs: tool(t), up: map[string]*machine{}}, within: within}
	return r, r.run(blocks)
}

func TestADocumentThatHolds(t *testing.T) {
	marks := []string{"/root/mark", "/srv/mark", "/var/lib/culvert/mark", "/run/mark", "/etc/culvert-mark", "/etc/netns/mark"}
	_, err := runDoc(t, time.Minute, `
'''sh machine=server
export GREETING="hello from $(hostname)"
cd /srv
for f in `+strings.Join(marks, " ")+`; do echo x > $f; done
sleep 1000 &
'''
'''sh machine=node-a
ls -A /root /srv /var/lib/culvert /etc/netns
echo "greeting: ${GREETING:-none}"
ip netns add cart
ip -n cart link set lo up
mkdir -p /etc/netns/cart
echo "nameserver 10.0.0.2" > /etc/netns/cart/resolv.conf
ip netns exec cart cat /etc/resolv.conf
busybox ping -c1 -W2 10.77.0.1 | grep received
mkdir /sys/fs/bpf/culvert
'''
'''text
greeting: none
nameserver 10.0.0.2
… 1 packets received, 0% packet loss
'''
'''sh machine=node-b
! test -e /sys/fs/bpf/culvert
! test -e /run/netns/cart
! busybox ping -c1 -W1 8.8.8.8
! ip route get 8.8.8.8
'''
'''sh machine=server
echo "$GREETING in $PWD"
tool 1 2
jobs
'''
'''text
hello from server in /srv
tool 1 2
[1]+ Running …
'''
'''sh machine=server
echo line >> log
wc -l log
'''
'''text
2 log
'''
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range marks {
		if _, err := os.Lstat(m); err == nil {
			t.Errorf("%s: the machine wrote it to this one", m)
		}
	}
}

func TestADocumentThatIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"status":                 {"'''sh machine=server\ntrue\n\nfalse\n'''", "X.md:4: on server: false: exit status 1"},
		"inside":                 {"'''sh machine=server\nfor f in a b; do\n  cat /$f\ndone\n'''", "/a: No such file"},
		"not the last of a list": {"'''sh machine=server\nfalse && true\n'''", "X.md:2: on server: false && true: exit status 1"},
		"a pipe":                 {"'''sh machine=server\nfalse | cat\n'''", "X.md:2: on server: false | cat: exit status 1"},
		"unknown program":        {"'''sh machine=server\nculvertt status\n'''", "culvertt: command not found"},
		"unset variable":         {"'''sh machine=server\necho $NOTHING\n'''", "NOTHING: unbound variable"},
		"exit":                   {"'''sh machine=server\nexit 0\n'''", "X.md:2: on server: exit 0: the machine's shell ended"},
		"no end":                 {"'''sh machine=server\nuntil false; do sleep 0.1; done\n'''", "not done within 1s"},
		"promise":                {"'''sh machine=server\necho one\n'''\n'''text\ntwo\n'''", `X.md:2: the block printed no line "two"`},
		"nothing to copy":        {"'''sh machine=server\necho $ENI_CART\n'''", "X.md:2: ENI_CART: no culvert eni create cart was run"},
		"the second block":       {"'''sh machine=server\ntrue\n'''\n'''sh machine=node-a\nfalse\n'''", "X.md:5: on node-a: false"},
	} {
		t.Run(name, func(t *testing.T) {
			within := time.Minute
			switch name {
			case "no end":
				within = time.Second
			case "promise": // which is waited for
				within = 5 * time.Second
			}
			if _, err := runDoc(t, within, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("have %v\nwant %s", err, c.want)
			}
		})
	}
}

// TestNothingGoesOn starts a process that leaves its shell behind, as a daemon does.
func TestNothingGoesOn(t *testing.T) {
	var pid int
	t.Run("document", func(t *testing.T) {
		r, err := runDoc(t, time.Minute, "'''sh machine=server\n(setsid sleep 1000 </dev/null >/dev/null 2>&1 &)\n'''\n")
		if err != nil {
			t.Fatal(err)
		}
		first := strconv.Itoa(r.up["server"].cmd.Process.Pid)
		pid = descendant(t, first)
	})
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("process %d: %v, want it ended", pid, err)
	}
}

// descendant is the only child of a process.
func descendant(t *testing.T, parent string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/" + parent + "/task/" + parent + "/children")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatalf("children of %s: %q", parent, text)
	}
	return pid
}
