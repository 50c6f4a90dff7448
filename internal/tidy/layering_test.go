package tidy

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
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
var pure = []string{"api", "plan", "plan/verdict", "judge", "agent/doctor", "agent/health", "controlplane/alloc", "controlplane/view", "dns/zone",
	"audit/format", "audit/seal", "audit/history", "audit/leaf", "audit/tiles", "audit/verify", "audit/report", "audit/names"}

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
	{"github.com/cilium/ebpf", []string{"bpf", "agent/datapath", "e2e"}, "the kernel's BPF side has one door; e2e plays others"},
	{"github.com/vishvananda/netlink", []string{"agent/host", "internal/netlab"}, "links and routes have one door"},
	{"github.com/google/nftables", []string{"agent/host", "internal/netlab"}, "the closed door is kept in one place"},
	{"go.etcd.io/", []string{"controlplane/store"}, "the store can be replaced"},
	{"github.com/hashicorp/memberlist", []string{"agent/gossip"}, "gossip is a hint and stays one"},
	{"github.com/miekg/dns", []string{"dns"}, "miekg/dns v1 is in maintenance: replacing it must touch one package"},
	{"github.com/mdlayher/genetlink", []string{"agent/wire"}, "the kernel's WireGuard has one door"},
	{"golang.zx2c4.com/wireguard", []string{"agent/wire"}, "kernel and user-space WireGuard look the same outside"},
	{"github.com/danielgtaylor/huma", []string{"controlplane"}, "the HTTP framework is the control plane's own business"},
	{"github.com/prometheus/", []string{"internal/metrics"}, "what a process shows is a list that its documentation is held against"},
	{"github.com/parquet-go/", []string{"audit/parquetfile"}, "files are read and written in one place; others know columns and rows"},
	{"github.com/minio/minio-go", []string{"audit/bucket", "internal/s3store"}, "buckets have one door; what is in objects is known elsewhere"},
	{"github.com/transparency-dev/tessera", []string{"audit/treelog"}, "the log's files have one writer, and verifying them needs none"},
	{"k8s.io/klog", []string{"audit/treelog"}, "it is how Tessera logs, and nobody else does"},
	{"github.com/spf13/cobra", []string{"cmd", "internal/cli"}, "flags are parsed in one place"},
}

// testOnly packages serve tests: only tests and each other import them. Being part of no binary, they may end a process,
// and import what lies between the layers.
var testOnly = map[string]string{
	"agent/wire/internal/tunneltest":   "the test's own binary as a tunnel process, for the tests of several packages",
	"agent/wire/tunnel/internal/stock": "the tunnel as the library's authors ship it, for comparison",
	"bpf/internal/frame":               "writes packets the slow way",
	"e2e":                              "the whole, on a dev mesh",
	"e2e/packages":                     "a host with the packages, from installation to purge",
	"internal/agree":                   "compares what must agree and shares nothing",
	"internal/badinput":                "the shape of tables of bad input",
	"internal/docrun":                  "runs what the documents say",
	"internal/oracle":                  "watches a mesh while a test does something to it",
	"internal/fulldisk":                "mounts a small disk and ends the test when that fails",
	"internal/machine":                 "boots systemd and ends the test when that fails",
	"internal/netlab":                  "makes namespaces and ends the test when that fails",
	"internal/plantest":                "plans for tests",
	"internal/randomly":                "what random tests draw from",
	"internal/s3store":                 "an S3-compatible store that other people made",
	"internal/tidy":                    "style as tests",
	"internal/worlds":                  "random resources for tests",
}

// everywhere may be imported by every package that is not pure.
var everywhere = map[string]string{
	"internal/logkey": "a key means the same in all logs",
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
	{"audit/format", []string{"api"}, "what a line says follows from the record alone"},
	{"dns", []string{"api", "dns"}, "the resolver is handed its zones and knows nothing of plans"},
	{"dns/zone", []string{"api"}, "zones are values"},
	{"controlplane/alloc", []string{"api"}, "allocation is a function of the snapshot"},
	{"controlplane/view", []string{"api", "controlplane/alloc"}, "a view is a function of the snapshot"},
	{"controlplane", []string{"api", "audit", "plan", "judge", "controlplane", "agent/state", "internal/failpoint", "internal/metrics",
		"internal/ownfile"},
		"the control plane knows no kernel"},
	{"controlplane/store", []string{"api", "internal/failpoint"}, "the store keeps resources and decides nothing"},
	{"controlplane/evidence", []string{"audit/leaf", "audit/seal"}, "it keeps bytes, and knows of nodes what their seals say"},
	{"controlplane/ca", nil, "certificates know no resources"},
	{"agent", []string{"api", "audit", "plan", "agent", "bpf", "dns", "internal/failpoint", "internal/metrics", "internal/ownfile",
		"internal/version", "internal/netns", "internal/resident"},
		"an agent reaches the control plane by api/client only"},
	{"agent/host", []string{"internal/failpoint", "internal/netns"}, "the kernel's links and routes mean nothing to this package"},
	{"agent/wire", []string{"agent/wire", "internal/failpoint", "internal/ownfile", "internal/resident"},
		"WireGuard knows keys, addresses and nothing of ours"},
	{"agent/flow", []string{"api", "audit/seal", "plan", "internal/failpoint"}, "records need names, not the kernel: the datapath is handed in"},
	{"agent/doctor", nil, "it judges what was read of a machine, and reads nothing itself"},
	{"agent/health", []string{"agent/health"}, "who is healthy is decided from what is handed in: views and the kernel are the agent's"},
	{"agent/local", []string{"api"}, "the local socket is also the commands' side of it"},
	{"audit", []string{"api", "audit"}, "evidence is judged from files alone: it knows no server and no node"},
	{"audit/seal", []string{"api"}, "a seal is a value"},
	{"audit/verify", []string{"api", "audit/leaf", "audit/seal", "audit/tiles"}, "who verifies needs neither who wrote the log nor a server"},
	{"audit/witness", []string{"audit/tiles", "internal/ownfile"}, "a witness knows checkpoints, and nothing of what is in a log"},
	{"audit/bucket", []string{"api", "internal/ownfile"}, "a store has objects and knows not what is in them"},
	{"audit/tiles", nil, "the tree knows hashes, not what they are of"},
	{"bpf", []string{"bpf"}, "the programs know numbers; what they mean is agent/datapath's business"},
	{"internal/failpoint", nil, "a point is a name and nothing else"},
	{"internal/metrics", []string{"internal/version"}, "what a process shows is handed in"},
	{"internal/netns", nil, "entering a namespace needs nothing of ours"},
	{"internal/resident", nil, "memory is the process's, whatever it does"},
	{"internal/underlay", nil, "what judges the underlay shares nothing with what sends there"},
	{"internal/version", nil, "everybody may ask for the version"},
	{"internal/cli", []string{"api", "agent", "audit", "controlplane", "internal/dev", "internal/netns", "internal/version", "internal/metrics"},
		"commands start the processes and speak to them as any client does; they decide nothing"},
	{"audit/parquetfile", []string{"audit/format"}, "a file has fields and knows not whose they are"},
	{"audit/query", []string{"api", "audit/format", "audit/names", "audit/parquetfile"}, "questions are answered from files alone, wherever they come from"},
	{"audit/names", []string{"api"}, "which question a flow followed is told from the two records alone"},
	{"audit/report", []string{"api", "audit/query", "audit/history"}, "a report is a function of answers, resources and events"},
	{"audit/bundle", []string{"api", "audit/leaf", "audit/names", "audit/report", "audit/verify"}, "a bundle is a function of a copy of evidence"},
	{"cmd", []string{"internal/cli"}, "a command is flags and nothing else"},
	{"scripts", nil, "scripts work on the tree from outside"},
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
			if testOnly[me] != "" {
				continue
			}
			if imp == "testing" {
				t.Errorf("%s imports testing: only packages listed as testOnly may, a binary has no tests", me)
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
	if why := testOnly[target]; why != "" {
		t.Errorf("%s imports %s, which is for tests only: %s", me, target, why)
	}
	if everywhere[target] != "" {
		if slices.Contains(pure, me) {
			t.Errorf("%s imports %s: pure functions return errors; the edge logs", me, target)
		}
		return
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

// A rule about a package that is gone protects nothing.
func TestLayersNamePackages(t *testing.T) {
	var have []string
	for _, p := range packages(t) {
		if me, ok := local(p.ImportPath); ok {
			have = append(have, me)
		}
	}
	exists := func(rule string) bool {
		return slices.ContainsFunc(have, func(p string) bool { return within(p, rule) })
	}
	names := slices.Concat(pure, notPure, slices.Collect(maps.Keys(testOnly)), slices.Collect(maps.Keys(everywhere)))
	for _, l := range layers {
		names = append(append(names, l.from), l.allow...)
	}
	for _, x := range exclusive {
		names = append(names, x.allow...)
	}
	for _, n := range names {
		if !exists(n) {
			t.Errorf("%s is named by a rule and does not exist", n)
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s: no package comment", p.ImportPath)
		}
	}
}
