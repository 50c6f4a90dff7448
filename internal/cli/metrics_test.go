package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/agent"
	"github.com/culvert-net/culvert/controlplane"
	"github.com/culvert-net/culvert/internal/metrics"
)

// The metrics that docs/OBSERVABILITY.md lists are those that there are.
func TestMetricsAreDocumented(t *testing.T) {
	const path = "../../docs/OBSERVABILITY.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	doc := string(text)
	for head, list := range map[string][]*metrics.Metric{
		"### Of an agent\n\n": agent.Metrics(), "### Of the server\n\n": controlplane.Metrics(),
	} {
		before, rest, ok := strings.Cut(doc, head)
		have, after, _ := strings.Cut(rest, "\n\n")
		want := strings.TrimSuffix(metrics.Table(list), "\n")
		if !ok {
			t.Fatalf("%s: no %q", path, head)
		}
		if have == want {
			continue
		}
		if !*update {
			t.Errorf("%s: %sis not what there is; if that is meant: go test ./internal/cli -run TestMetricsAreDocumented -update", path, head)
			continue
		}
		doc = before + head + want + "\n\n" + after
	}
	if doc != string(text) {
		if err := os.WriteFile(path, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Names follow Prometheus's conventions: counters end in _total, ages and times in their unit.
func TestMetricNames(t *testing.T) {
	seen := map[string]bool{}
	for _, list := range [][]*metrics.Metric{agent.Metrics(), controlplane.Metrics()} {
		for _, m := range list {
			if seen[m.Name] {
				t.Errorf("%s is there twice", m.Name)
			}
			seen[m.Name] = true
			if (m.Type == metrics.Counter) != strings.HasSuffix(m.Name, "_total") || !strings.HasPrefix(m.Name, "culvert_") {
				t.Errorf("%s: not a good name", m.Name)
			}
			if !strings.HasSuffix(m.Help, ".") {
				t.Errorf("%s: %q is no sentence", m.Name, m.Help)
			}
		}
	}
}
