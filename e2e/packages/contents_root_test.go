package packages

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/internal/machine"
)

// units with the most exposure that `systemd-analyze security` may find, in tenths: 0 is nothing, 100 all of root.
var units = map[string]int{"culvert-server.service": 15, "culvert-tunnel.service": 25, "culvert-agent.service": 45}

// wanted are files of every package, with mode and owner as `ls` shows them. What differs by format stands below.
var wanted = map[string]string{
	"/usr/bin/culvert": "-rwxr-xr-x",
	"/usr/lib/systemd/system/culvert-server.service":    "-rw-r--r--",
	"/usr/lib/systemd/system/culvert-tunnel.service":    "-rw-r--r--",
	"/usr/lib/systemd/system/culvert-agent.service":     "-rw-r--r--",
	"/usr/lib/sysusers.d/culvert.conf":                  "-rw-r--r--",
	"/usr/lib/systemd/network/05-culvert.network":       "-rw-r--r--",
	"/usr/lib/NetworkManager/conf.d/10-culvert.conf":    "-rw-r--r--",
	"/etc/culvert/server.env":                           "-rw-r--r--",
	"/etc/culvert/agent.env":                            "-rw-r--r--",
	"/usr/share/man/man1/culvert.1.gz":                  "-rw-r--r--",
	"/usr/share/man/man1/culvert-agent-leave.1.gz":      "-rw-r--r--",
	"/usr/share/bash-completion/completions/culvert":    "-rw-r--r--",
	"/usr/share/fish/vendor_completions.d/culvert.fish": "-rw-r--r--",
	"/usr/share/doc/culvert/OPERATIONS.md":              "-rw-r--r--",
}

var only = map[string][]string{
	"deb": {"/usr/share/zsh/vendor-completions/_culvert", "/usr/share/doc/culvert/copyright"},
	"rpm": {"/usr/share/zsh/site-functions/_culvert", "/usr/share/licenses/culvert/LICENSE"},
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var errs bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, errs.String())
	}
	return string(out)
}

// entry is a file of a package.
type entry struct{ mode, owner string }

// list reads a package's files.
func list(t *testing.T, file string) map[string]entry {
	t.Helper()
	files := map[string]entry{}
	if strings.HasSuffix(file, ".deb") {
		for line := range strings.Lines(run(t, "dpkg-deb", "--contents", file)) {
			if f := strings.Fields(line); len(f) >= 6 {
				files[strings.TrimPrefix(f[5], ".")] = entry{f[0], f[1]}
			}
		}
		return files
	}
	const format = "[%{FILENAMES} %{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME}\n]"
	for line := range strings.Lines(run(t, "rpm", "-qp", "--nosignature", "--qf", format, file)) {
		if f := strings.Fields(line); len(f) == 3 {
			files[f[0]] = entry{f[1], f[2]}
		}
	}
	return files
}

func TestPackager(t *testing.T) {
	packagesOf(t, "a")
	for _, args := range [][]string{{"vet", "./..."}, {"test", "./..."}} {
		cmd := exec.Command("go", args...)
		cmd.Dir = "../../packaging"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("go %v: %v\n%s", args, err, out)
		}
	}
}

func TestContents(t *testing.T) {
	all := packagesOf(t, "a")
	if len(all) != 4 {
		t.Fatalf("packages %v, want deb and rpm for two architectures", all)
	}
	for _, file := range all {
		t.Run(filepath.Base(file), func(t *testing.T) {
			files := list(t, file)
			format := strings.TrimPrefix(filepath.Ext(file), ".")
			for path, mode := range wanted {
				if got := files[path]; got.mode != mode {
					t.Errorf("%s: mode %q, want %s", path, got.mode, mode)
				}
			}
			for _, path := range only[format] {
				if files[path].mode != "-rw-r--r--" {
					t.Errorf("%s: mode %q", path, files[path].mode)
				}
			}
			for path, e := range files {
				if e.owner != "root/root" {
					t.Errorf("%s belongs to %s", path, e.owner)
				}
			}
			want := "/etc/culvert/agent.env\n/etc/culvert/server.env\n"
			if got := configurations(t, file); got != want {
				t.Errorf("configuration files %q, want %q", got, want)
			}
			checkBinary(t, file)
		})
	}
}

func configurations(t *testing.T, file string) string {
	t.Helper()
	if strings.HasSuffix(file, ".rpm") {
		return run(t, "rpm", "-qpc", "--nosignature", file)
	}
	lines := strings.Fields(run(t, "dpkg-deb", "--info", file, "conffiles"))
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// machines in an ELF header, by what package names call them.
var elf = map[string]byte{"amd64": 62, "x86_64": 62, "arm64": 183, "aarch64": 183}

// checkBinary looks whether the binary is for the architecture that the package says.
func checkBinary(t *testing.T, file string) {
	t.Helper()
	unpacked := unpack(t, file)
	binary, err := os.ReadFile(filepath.Join(unpacked, "usr/bin/culvert"))
	if err != nil {
		t.Fatal(err)
	}
	arch := regexp.MustCompile(`(amd64|x86_64|arm64|aarch64)\.(deb|rpm)$`).FindStringSubmatch(file)[1]
	if len(binary) < 20 || binary[18] != elf[arch] {
		t.Errorf("the binary is not for %s", arch)
	}
}

func unpack(t *testing.T, file string) string {
	t.Helper()
	dir := t.TempDir()
	if strings.HasSuffix(file, ".deb") {
		run(t, "dpkg-deb", "--extract", file, dir)
	} else {
		run(t, "sh", "-c", `rpm2archive - <"$1" | tar -xzf - -C "$2"`, "sh", file, dir)
	}
	return dir
}

// The same source gives the same bytes.
func TestReproducible(t *testing.T) {
	first := deb(t, "a")
	again := t.TempDir()
	if err := pack(again, versionA, "-arch", runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(again, "*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, f := range files {
		old, err := os.ReadFile(filepath.Join(filepath.Dir(first), filepath.Base(f)))
		if err != nil {
			t.Fatal(err)
		}
		if fresh, err := os.ReadFile(f); err != nil || !bytes.Equal(old, fresh) {
			t.Errorf("%s differs from its first build, %v", filepath.Base(f), err)
		}
	}
}

// Every command has a page, and a reader of pages takes them.
func TestManualPages(t *testing.T) {
	dir := filepath.Join(unpack(t, deb(t, "a")), "usr/share/man/man1")
	pages, err := filepath.Glob(filepath.Join(dir, "*.1.gz"))
	if err != nil || len(pages) < 100 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	run(t, "gunzip", pages...)
	for i := range pages {
		pages[i] = strings.TrimSuffix(pages[i], ".gz")
	}
	if out, err := exec.Command("mandoc", append([]string{"-T", "lint", "-W", "error"}, pages...)...).CombinedOutput(); err != nil {
		t.Errorf("mandoc: %v\n%s", err, out)
	}
	text := run(t, "mandoc", "-T", "utf8", filepath.Join(dir, "culvert-agent-leave.1"))
	for _, want := range []string{"culvert-agent-leave", "--local", "SEE ALSO"} {
		if !strings.Contains(strings.ReplaceAll(backspaced.ReplaceAllString(text, ""), "\u2010", "-"), want) {
			t.Errorf("the page of agent leave lacks %q:\n%s", want, text)
		}
	}
}

// backspaced is how a terminal's bold and underlined text is written.
var backspaced = regexp.MustCompile(".\b")

func TestCompletions(t *testing.T) {
	dir := unpack(t, deb(t, "a"))
	run(t, "bash", "-n", filepath.Join(dir, "usr/share/bash-completion/completions/culvert"))
	for _, f := range []string{"usr/share/zsh/vendor-completions/_culvert", "usr/share/fish/vendor_completions.d/culvert.fish"} {
		text, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil || !strings.Contains(string(text), "culvert __complete") && !strings.Contains(string(text), "__complete") {
			t.Errorf("%s completes nothing, %v", f, err)
		}
	}
}

var exposure = regexp.MustCompile(`Overall exposure level for \S+: (\d+)\.(\d)`)

func TestUnits(t *testing.T) {
	path := deb(t, "a")
	m := machine.Boot(t)
	m.CopyFile(path, "/opt/a.deb", 0o644)
	m.Run("dpkg", "-i", "/opt/a.deb")
	for unit, most := range units {
		file := "/usr/lib/systemd/system/" + unit
		if out := m.Run("systemd-analyze", "verify", file); out != "" {
			t.Errorf("%s: %s", unit, out)
		}
		out := m.Run("systemd-analyze", "security", "--offline=true", "--no-pager", file)
		score := exposure.FindStringSubmatch(out)
		if score == nil {
			t.Fatalf("%s: no score:\n%s", unit, out)
		}
		tenths, err := strconv.Atoi(score[1] + score[2])
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: exposure %s.%s of 10", unit, score[1], score[2])
		if tenths > most {
			t.Errorf("%s: exposure %s.%s, want at most %d.%d:\n%s", unit, score[1], score[2], most/10, most%10, out)
		}
		if out, err := m.Try("systemctl", "is-enabled", unit); err == nil || out != "disabled\n" {
			t.Errorf("%s after the installation: %s", unit, out)
		}
	}
	if out := m.Run("getent", "passwd", "culvert"); !strings.HasSuffix(out, ":/usr/sbin/nologin\n") || strings.Contains(out, ":0:") {
		t.Errorf("the server's user: %s", out)
	}
}

// The Vagrantfile is one that vagrant takes; no machine is made.
func TestVagrantfile(t *testing.T) {
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	cmd := exec.Command("vagrant", "validate", "--ignore-provider")
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "VAGRANT_CWD="+top, "VAGRANT_HOME="+home, "VAGRANT_DOTFILE_PATH="+filepath.Join(home, "dot"),
		"VAGRANT_CHECKPOINT_DISABLE=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "validated successfully") {
		t.Errorf("vagrant validate: %v\n%s", err, out)
	}
}
