package tidy

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/culvert-net/culvert"

type listed struct {
	ImportPath   string
	Dir          string
	Name         string
	Doc          string
	Imports      []string
	TestImports  []string
	XTestImports []string
	GoFiles      []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,Doc,Imports,TestImports,XTestImports,GoFiles", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var ps []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}

// local is a package's path within the module, "" for the root.
func local(path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

func within(path string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return path == d || strings.HasPrefix(path, d+"/") })
}

// pure packages take values and return values.
var pure = []string{"api", "plan", "plan/verdict", "judge", "controlplane/alloc", "controlplane/view", "dns/zone"}

// edges of api that are not pure.
var notPure = []string{"api/client"}

var impure = map[string]string{
	"os":       "pure packages touch no files, environment or processes: hand the value in",
	"net":      "pure packages open no sockets; net/netip has the types",
	"net/http": "pure packages open no sockets",
	"context":  "pure functions cannot be cancelled: they return",
	"log":      "pure functions return errors; the edge logs",
	"log/slog": "pure functions return errors; the edge logs",
}

// exclusive imports: only these packages may import that module.
var exclusive = []struct {
	prefix string
	allow  []string
	why    string
}{
	{"github.com/cilium/ebpf", []string{"bpf", "agent/datapath"}, "the kernel's BPF side has one door"},
	{"github.com/vishvananda/netlink", []string{"agent/host", "internal/netlab"}, "links and routes have one door"},
	{"github.com/google/nftables", []string{"agent/host", "internal/netlab"}, "the closed door is kept in one place"},
	{"go.etcd.io/", []string{"controlplane/store"}, "the store can be replaced"},
	{"github.com/hashicorp/memberlist", []string{"agent/gossip"}, "gossip is a hint and stays one"},
	{"github.com/miekg/dns", []string{"dns"}, "miekg/dns v1 is in maintenance: replacing it must touch one package"},
	{"golang.zx2c4.com/wireguard", []string{"agent/wire"}, "kernel and user-space WireGuard look the same outside"},
	{"github.com/danielgtaylor/huma", []string{"controlplane"}, "the HTTP framework is the control plane's own business"},
	{"github.com/spf13/cobra", []string{"cmd", "internal/cli"}, "flags are parsed in one place"},
}

// layers: a package of the first may import, within the module, only the second.
var layers = []struct {
	from  string
	allow []string
	why   string
}{
	{"api", []string{"api"}, "everybody imports api, so it imports nobody"},
	{"judge", []string{"api"}, "the judge shares no type or helper with plan: a bug in Compile must not hide in both"},
	{"plan", []string{"api", "plan"}, "the plan is computed from the view alone"},
	{"dns/zone", []string{"api", "plan"}, "zones are values"},
	{"controlplane/alloc", []string{"api"}, "allocation is a function of the snapshot"},
	{"controlplane/view", []string{"api", "controlplane/alloc"}, "a view is a function of the snapshot"},
	{"controlplane", []string{"api", "plan", "judge", "controlplane", "agent/state"}, "the control plane knows no kernel"},
	{"agent", []string{"api", "plan", "judge", "agent", "bpf", "dns", "controlplane/view", "internal/version"},
		"an agent reaches the control plane by api/client only"},
}

func TestLayering(t *testing.T) {
	for _, p := range packages(t) {
		me, ok := local(p.ImportPath)
		if !ok {
			continue
		}
		isPure := slices.Contains(pure, me) && !within(me, notPure...)
		for _, imp := range p.Imports {
			if why, bad := impure[imp]; bad && isPure {
				t.Errorf("%s imports %s: %s", me, imp, why)
			}
			for _, x := range exclusive {
				if strings.HasPrefix(imp, x.prefix) && !within(me, x.allow...) {
					t.Errorf("%s imports %s, which only %v may: %s", me, imp, x.allow, x.why)
				}
			}
			checkLayer(t, me, imp)
		}
	}
}

func checkLayer(t *testing.T, me, imp string) {
	t.Helper()
	target, ours := local(imp)
	if !ours {
		return
	}
	if within(target, "internal/netlab", "internal/faultnet", "internal/tidy") && !within(me, "internal") {
		t.Errorf("%s imports %s outside tests: it is for tests only", me, target)
	}
	best := -1
	for i, l := range layers {
		if within(me, l.from) && (best < 0 || len(l.from) > len(layers[best].from)) {
			best = i
		}
	}
	if best >= 0 && !within(target, layers[best].allow...) {
		t.Errorf("%s imports %s: %s", me, target, layers[best].why)
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s: no package comment", p.ImportPath)
		}
	}
}
