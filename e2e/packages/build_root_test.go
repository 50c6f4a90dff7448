package packages

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// Two builds of this source; only the version that is stamped differs.
const (
	versionA = "v0.1.0"
	versionB = "v0.1.1"
	// madeAt is the time of both, in seconds since 1970: that of Go's first release that can be reproduced.
	madeAt = "1691500000"
	// buildWithin bounds a build of the packages from nothing.
	buildWithin = 8 * time.Minute
)

// built are the packages, which the tests share.
var built struct {
	once     sync.Once
	dir      string
	packager string
	err      error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

func pack(out, version string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), buildWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, built.packager, append([]string{"-version", version, "-time", madeAt, "-out", out}, args...)...)
	cmd.Dir, cmd.Stderr = "../../packaging", os.Stderr
	return cmd.Run()
}

func build() error {
	dir, err := os.MkdirTemp("", "culvert-packages-")
	if err != nil {
		return err
	}
	built.dir, built.packager = dir, filepath.Join(dir, "packager")
	cmd := exec.Command("go", "build", "-o", built.packager, ".")
	cmd.Dir, cmd.Stderr = "../../packaging", os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	if err := pack(filepath.Join(dir, "a"), versionA); err != nil {
		return err
	}
	return pack(filepath.Join(dir, "b"), versionB, "-arch", runtime.GOARCH, "-format", "deb")
}

// packagesOf builds once, and lists the packages of "a" or "b".
func packagesOf(t *testing.T, which string) []string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: packages are installed")
	}
	built.once.Do(func() { built.err = build() })
	if built.err != nil {
		t.Fatalf("packaging: %v", built.err)
	}
	files, err := filepath.Glob(filepath.Join(built.dir, which, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// deb is the package for this machine.
func deb(t *testing.T, which string) string {
	t.Helper()
	files := packagesOf(t, which)
	i := slices.IndexFunc(files, func(f string) bool {
		ok, _ := filepath.Match("culvert_*_"+runtime.GOARCH+".deb", filepath.Base(f))
		return ok
	})
	if i < 0 {
		t.Fatalf("no package for %s among %v", runtime.GOARCH, files)
	}
	return files[i]
}
