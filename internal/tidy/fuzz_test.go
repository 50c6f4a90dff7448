package tidy

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// parsers are the packages that read what others wrote, what of it, and the fuzz targets that try it. A package that begins to
// read something gets a row here, and each target a corpus.
var parsers = map[string]struct {
	what    string
	targets []string
}{
	"agent/flow":         {"segments and state of flow records", []string{"FuzzOpenLog"}},
	"agent/gossip":       {"members as others tell them", []string{"FuzzMembers"}},
	"agent/datapath":     {"events of the programs", []string{"FuzzRecord"}},
	"agent/health":       {"other nodes' messages", []string{"FuzzParse"}},
	"agent/health/probe": {"targets' answers", []string{"FuzzAnswered"}},
	"agent/host":         {"tables of mounts", []string{"FuzzParseMount", "FuzzScanMounts"}},
	"agent/local":        {"requests to the local socket, filters", []string{"FuzzHandler", "FuzzParseFilter"}},
	"agent/state":        {"files of a node, signed views", []string{"FuzzOpenView", "FuzzReadFile"}},
	"agent/wire": {"the UAPI's and the kernel's answers, keys", []string{"FuzzParseDump", "FuzzParsePublicKey", "FuzzPathMTUs",
		"FuzzParseState", "FuzzPrivateKey"}},
	"agent/wire/tunnel": {"control messages, packets, probes, the handover", []string{"FuzzJoin", "FuzzParseControl",
		"FuzzParseHandover", "FuzzProbe", "FuzzSplit", "FuzzSum"}},
	"api": {"ids, names, addresses, JSON, resources", []string{"FuzzCheckJSON", "FuzzParseID", "FuzzParseOverlay",
		"FuzzResources", "FuzzValidate"}},
	"api/client":  {"join tokens", []string{"FuzzTokenPin"}},
	"audit/leaf":  {"entries of the Merkle log", []string{"FuzzDecode"}},
	"audit/seal":  {"seals of nodes", []string{"FuzzParse"}},
	"audit/tiles": {"checkpoints, bundles of entries", []string{"FuzzParseBundle", "FuzzParseSigned"}},
	"bpf": {"packets at every hook", []string{"FuzzFromHost", "FuzzFromTunnel", "FuzzFromWorkload", "FuzzGuard", "FuzzLimitQueries",
		"FuzzReceiveLocal"}},
	"controlplane":         {"requests of users and nodes", []string{"FuzzRequest"}},
	"controlplane/ca":      {"certificate requests", []string{"FuzzParseRequest"}},
	"controlplane/flowlog": {"days of flow records", []string{"FuzzOpen"}},
	"controlplane/store":   {"pages of the database", []string{"FuzzCheckTree"}},
	"dns":                  {"queries, forwarders' answers, records", []string{"FuzzHandle", "FuzzPackRecord", "FuzzVerify"}},
	"dns/zone":             {"names, forwarders, questions", []string{"FuzzLookup", "FuzzNew", "FuzzParseForwarder"}},
	"internal/cli":         {"flags, arguments, credentials", []string{"FuzzCredentials", "FuzzParseFlags"}},
	"internal/dev":         {"the record of a mesh", []string{"FuzzParseRecord"}},
	"internal/underlay":    {"captured packets", []string{"FuzzClassify"}},
	"plan": {"views, texts of rule sets and target tables", []string{"FuzzCompile", "FuzzParseRules",
		"FuzzTargetTable"}},
}

var fuzzTarget = regexp.MustCompile(`(?m)^func (Fuzz[A-Za-z0-9_]*)\(`)

// TestEveryParserIsFuzzed: the targets of the list exist and no others, and each has inputs that are kept.
func TestEveryParserIsFuzzed(t *testing.T) {
	have := map[string][]string{}
	for _, f := range sources(t) {
		if !strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root(t), f))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range fuzzTarget.FindAllStringSubmatch(string(text), -1) {
			have[filepath.Dir(f)] = append(have[filepath.Dir(f)], m[1])
		}
	}
	for dir, p := range parsers {
		for _, name := range p.targets {
			if !slices.Contains(have[dir], name) {
				t.Errorf("%s reads %s: it has no %s", dir, p.what, name)
			}
			kept, err := filepath.Glob(filepath.Join(root(t), dir, "testdata", "fuzz", name, "*"))
			if err != nil || len(kept) == 0 {
				t.Errorf("%s: no input of %s is kept in testdata/fuzz (%v): run it, and keep some of what it finds", dir, name, err)
			}
		}
	}
	for dir, names := range have {
		for _, name := range names {
			if !slices.Contains(parsers[dir].targets, name) {
				t.Errorf("%s: %s is not in the list of parsers", dir, name)
			}
		}
	}
}
