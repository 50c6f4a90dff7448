package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
)

// The units of tunnel and agent have one environment, by which --check decides whether the tunnel is to run.
func TestTunnelCheck(t *testing.T) {
	for _, c := range []struct {
		env    string
		args   []string
		status int
		text   string // in what is said
	}{
		{"", nil, 0, ""},
		{"user", nil, 0, ""},
		{"kernel", nil, 1, ""},
		{"", []string{"--wireguard", "kernel"}, 1, ""},
		{"kernel", []string{"--wireguard", "user"}, 0, ""},
		{"", []string{"--wireguard", "fast"}, 1, "use user or kernel"},
		{"fast", nil, 1, "CULVERT_WIREGUARD"},
	} {
		t.Setenv("CULVERT_WIREGUARD", c.env)
		var out, err bytes.Buffer
		status := Main(t.Context(), append([]string{"tunnel", "--check"}, c.args...),
			Streams{In: strings.NewReader(""), Out: &out, Err: &err})
		if status != c.status || out.Len() > 0 || c.text == "" && err.Len() > 0 || !strings.Contains(strings.ToLower(err.String()), strings.ToLower(c.text)) {
			t.Errorf("CULVERT_WIREGUARD=%s, %v: status %d, said %q%q", c.env, c.args, status, out.String(), err.String())
		}
	}
}

func TestTunnelRefusesBesideTheKernels(t *testing.T) {
	c := newTree()
	c.SetArgs([]string{"tunnel", "--wireguard", "kernel"})
	var e *api.Error
	if err := c.ExecuteContext(t.Context()); !errors.As(err, &e) || e.Field != "--wireguard" || e.Remedy == "" {
		t.Errorf("error %v", err)
	}
}
