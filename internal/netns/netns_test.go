package netns

import "testing"

func TestPath(t *testing.T) {
	for in, want := range map[string]string{
		"cart": "/run/netns/cart", "/proc/7/ns/net": "/proc/7/ns/net", "./x": "./x", "/run/netns/a": "/run/netns/a",
	} {
		if have := Path(in); have != want {
			t.Errorf("Path(%q) = %q, want %q", in, have, want)
		}
	}
	if have, want := ProcessPath(4711), "/proc/4711/ns/net"; have != want {
		t.Errorf("ProcessPath = %q, want %q", have, want)
	}
}
