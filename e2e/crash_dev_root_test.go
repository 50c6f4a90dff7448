package e2e

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/dev"
	"github.com/culvert-net/culvert/internal/failpoint"
)

// crashDevPrefix names the mesh that is made and removed by commands which die on the way.
const crashDevPrefix = "cvcrdev"

// ofDevMesh is what of that name is on this machine, so that a mesh that is gone can be told from one that left something.
func ofDevMesh() ([]string, error) {
	var all []string
	for _, pattern := range []string{"/run/netns/*", "/var/lib/*", "/run/*", "/sys/fs/bpf/*", "/etc/netns/*", "/etc/netns/.*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range processes {
		if text, errRead := os.ReadFile(p); errRead == nil && strings.Contains(string(text), "/run/"+crashDevPrefix+"-dev") {
			all = append(all, "process "+strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return slices.DeleteFunc(all, func(s string) bool { return !strings.Contains(s, crashDevPrefix) }), err
}

// devPoints makes and removes a mesh by commands that die at every failpoint; what a second command then removes is all.
func (m *crashMesh) devPoints(t *testing.T, r *pointRun) {
	dir := m.pointDir(t, "machine", "dev")
	lab, err := dev.New(dev.Config{Prefix: crashDevPrefix, Program: filepath.Join(m.dir, "culvert")})
	if err != nil {
		t.Fatal(err)
	}
	down := func() {
		if err := lab.Down(); err != nil {
			t.Error(err)
		}
	}
	down()
	t.Cleanup(down)
	before, err := ofDevMesh()
	if err != nil {
		t.Fatal(err)
	}
	d := &devRun{t: t, m: m, r: r, lab: lab, dir: dir, before: before}
	d.up(t.Context(), t)
	ups, err := passings(dir)
	if err != nil {
		t.Fatal(err)
	}
	d.gone("down")
	n := 0
	for _, point := range slices.Sorted(maps.Keys(ups)) {
		for k := 1; k <= min(ups[point], max(1, manyTimes[point])); k++ {
			d.dieUp(point, k, n%4 == 0)
			n++
		}
	}
	d.downs()
	d.killed()
	t.Logf("dev: n=%d kills of dev up and workload add, all removed by dev down", n)
}

// devRun is the work of devPoints.
type devRun struct {
	t      *testing.T
	m      *crashMesh
	r      *pointRun
	lab    *dev.Lab
	dir    string
	before []string
}

func (d *devRun) command(ctx context.Context, args ...string) error {
	env := []string{"CULVERT_SERVER=" + d.lab.ServerAddress(), "CULVERT_CA=" + d.lab.CAFile()}
	return d.m.command(ctx, "", d.dir, env, append([]string{"dev", "--prefix", crashDevPrefix}, args...)...)
}

// make brings up a mesh of one host with a workload.
func (d *devRun) make(ctx context.Context) error {
	if err := d.command(ctx, "up", "--hosts", "1"); err != nil {
		return err
	}
	admin, err := d.lab.Admin("")
	if err != nil {
		return err
	}
	defer admin.Close()
	if _, err := admin.GetAccount(ctx, "shop"); err != nil {
		if _, err := admin.CreateAccount(ctx, api.CreateAccountRequest{Name: "shop"}); err != nil {
			return err
		}
	}
	shop, err := d.lab.Admin("shop")
	if err != nil {
		return err
	}
	defer shop.Close()
	if _, err := shop.GetENI(ctx, "cart"); err != nil {
		cidr := netip.MustParsePrefix("10.0.0.0/24")
		_, err := shop.CreateVPC(ctx, api.CreateVPCRequest{Name: "main", CIDR: cidr})
		if err == nil {
			_, err = shop.CreateSubnet(ctx, api.CreateSubnetRequest{VPC: "main", Name: "main", CIDR: cidr, Zone: "z1"})
		}
		if err == nil {
			_, err = shop.CreateENI(ctx, api.CreateENIRequest{Name: "cart", Subnet: "main"})
		}
		if err != nil {
			return err
		}
	}
	return d.command(ctx, "workload", "add", crashDevPrefix+"-cart", "--host", "host-a", "--eni", "cart", "--account", "shop")
}

func (d *devRun) up(ctx context.Context, t *testing.T) {
	t.Helper()
	if err := d.make(ctx); err != nil {
		t.Fatal(err)
	}
	s, err := d.lab.Status()
	if err != nil || !s.Running() {
		t.Fatalf("%+v, %v", s, err)
	}
}

// arm has the next command die at a point.
func (d *devRun) arm(point string, k int) (died func() bool) {
	armed := filepath.Join(d.dir, point+failpoint.Armed)
	if err := os.WriteFile(armed, []byte(strconv.Itoa(k)), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return func() bool {
		err := os.Remove(armed)
		if err != nil {
			d.r.killed[point]++
		}
		return err != nil
	}
}

// gone: what dev down leaves is what was there before.
func (d *devRun) gone(what string) {
	d.t.Helper()
	if err := d.command(d.t.Context(), "down"); err != nil {
		d.t.Fatalf("%s: %v", what, err)
	}
	var left error
	for end := time.Now().Add(slack * 5 * time.Second); time.Now().Before(end); pause(d.t.Context(), 20*time.Millisecond) {
		now, err := ofDevMesh()
		if err != nil {
			d.t.Fatal(err)
		}
		if left = difference(d.before, now); left == nil {
			return
		}
	}
	d.t.Fatalf("%s: %v", what, left)
}

// dieUp has the mesh's making die; again is whether it is then made all the same before it is removed.
func (d *devRun) dieUp(point string, k int, again bool) {
	d.t.Helper()
	what := "dev up killed at " + point + " (" + strconv.Itoa(k) + ")"
	died := d.arm(point, k)
	err := d.make(d.t.Context())
	if !died() {
		d.t.Fatalf("%s: never came there: %v", what, err)
	}
	if again {
		d.up(d.t.Context(), d.t)
	}
	d.gone(what)
}

// downs has the mesh's removal die.
func (d *devRun) downs() {
	d.t.Helper()
	for _, at := range []struct {
		point string
		k     int
	}{{"dev.ended", 1}, {"dev.ended", 3}, {"dev.workload-dropped", 1}, {"resolver.before-back", 1}, {"dev.host-dropped", 1},
		{"dev.dropped", 1}} {
		d.up(d.t.Context(), d.t)
		died := d.arm(at.point, at.k)
		err := d.command(d.t.Context(), "down")
		if !died() {
			d.t.Fatalf("dev down never came to %s: %v", at.point, err)
		}
		d.gone("dev down killed at " + at.point)
	}
}

// killed ends everything at once, and forgets where the process ids are.
func (d *devRun) killed() {
	d.t.Helper()
	for _, forget := range []bool{false, true} {
		d.up(d.t.Context(), d.t)
		err := errors.Join(d.lab.Kill("host-a", "", false), d.lab.Kill("server", "", false))
		if forget { // as after a boot
			err = errors.Join(err, os.RemoveAll(d.lab.RunDir()))
		}
		if err != nil {
			d.t.Fatal(err)
		}
		d.gone("everything killed")
	}
}
