package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/agent/state"
)

// While the agent runs a downgrade refuses, says what to do, and has touched nothing.
func TestDowngradeBesideTheAgent(t *testing.T) {
	cfg := Config{DataDir: t.TempDir(), PinDir: filepath.Join(t.TempDir(), "pins")}
	unlock, err := state.Dir(cfg.DataDir).Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := Downgrade(t.Context(), cfg, OlderSchema); err == nil || !strings.Contains(err.Error(), "stop culvert agent first") {
		t.Errorf("downgrade beside an agent: %v", err)
	}
	if _, err := os.Stat(cfg.PinDir); !os.IsNotExist(err) {
		t.Errorf("pins: %v", err)
	}
}
