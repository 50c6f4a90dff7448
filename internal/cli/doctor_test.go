package cli

import (
	"os"
	"path/filepath"
	"testing"
)

func TestUnitsUseKernel(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "CULVERT_WIREGUARD=kernel\n": true, "# CULVERT_WIREGUARD=kernel\n": false, "A=b\n CULVERT_WIREGUARD=\"kernel\"": true,
		"CULVERT_WIREGUARD=kernel\nCULVERT_WIREGUARD=user\n": false, "CULVERT_WIREGUARD='kernel'\n": true,
	} {
		path := filepath.Join(t.TempDir(), "agent.env")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := unitsUseKernel(path); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
	if unitsUseKernel(filepath.Join(t.TempDir(), "none")) {
		t.Error("a file that is not there")
	}
}
