package dev

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/netns"
)

const testPrefix = "cvdev"

var testNet = netip.MustParsePrefix("10.0.0.0/24")

// startMesh has one host and a workload on it, named as the prefix.
func startMesh(t *testing.T) (l *Lab, program string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a development mesh")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	program = filepath.Join(t.TempDir(), "culvert")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "../../cmd/culvert").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	l, err := New(Config{Prefix: testPrefix, Program: program})
	if err != nil {
		t.Fatal(err)
	}
	down := func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	}
	down() // what an earlier run left when it was killed
	t.Cleanup(down)
	if err := l.Up(ctx, 1); err != nil {
		t.Fatal(err)
	}
	admin, err := l.Admin("")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	account, err := admin.CreateAccount(ctx, api.CreateAccountRequest{Name: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	shop, err := l.Admin(account.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer shop.Close()
	_, err = shop.CreateVPC(ctx, api.CreateVPCRequest{Name: "main", CIDR: testNet})
	if err == nil {
		_, err = shop.CreateSubnet(ctx, api.CreateSubnetRequest{VPC: "main", Name: "main", CIDR: testNet, Zone: "z1"})
	}
	if err == nil {
		_, err = shop.CreateENI(ctx, api.CreateENIRequest{Name: "cart", Subnet: "main"})
	}
	if err == nil {
		_, err = l.AddWorkload(ctx, shop, Workload{Name: testPrefix, Host: "host-a", ENI: "cart", Interface: "eni0"})
	}
	if err != nil {
		t.Fatal(err)
	}
	return l, program
}

// TestDownRestores: the resolver file that was there before is back after Down, though the agent that kept it was killed.
func TestDownRestores(t *testing.T) {
	dir := filepath.Join(netns.ConfigDir, testPrefix)
	file := filepath.Join(dir, "resolv.conf")
	const before = "nameserver 192.0.2.53\n"
	if os.Geteuid() == 0 {
		_, err := os.Stat(netns.ConfigDir)
		made := os.IsNotExist(err)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			os.RemoveAll(dir)
			if made {
				os.Remove(netns.ConfigDir)
			}
		})
		if err := os.WriteFile(file, []byte(before), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, program := startMesh(t)
	if have, err := os.ReadFile(file); err != nil || !strings.Contains(string(have), "nameserver 10.0.0.2\n") {
		t.Errorf("the workload's resolver file is %q (%v)", have, err)
	}
	hostEnvironment(t, program)
	if err := l.Kill("host-a", "agent", false); err != nil {
		t.Fatal(err)
	}
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	if have, err := os.ReadFile(file); string(have) != before {
		t.Errorf("after Down it is %q (%v)", have, err)
	}
	aside, err := filepath.Glob(filepath.Join(netns.ConfigDir, ".culvert-"+testPrefix+"*"))
	if err != nil || len(aside) > 0 {
		t.Errorf("%v are left (%v)", aside, err)
	}
	for _, name := range []string{testPrefix, testPrefix + "-underlay", testPrefix + "-server", testPrefix + "-host-a"} {
		if netns.Exists(netns.Path(name)) {
			t.Errorf("namespace %s is left", name)
		}
	}
}

// hostEnvironment: on a host, culvert finds that host's agent, and a key for another server is kept from this one.
func hostEnvironment(t *testing.T, program string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, "dev", "--prefix", testPrefix, "exec", "host-a", "--", program, "status")
	cmd.Env = append(cleanEnvironment(), "HOME="+t.TempDir(), "CULVERT_SERVER=https://192.0.2.1:7443", "CULVERT_API_KEY=secret",
		"CULVERT_AGENT_SOCKET=/nowhere")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "host-a (node-") || strings.Contains(string(out), "Server ") {
		t.Errorf("culvert status on host-a: %v\n%s", err, out)
	}
}
