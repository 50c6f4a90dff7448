package agent

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
)

// A join that is refused leaves neither key nor request behind, unless they were there before; one that may have come to pass keeps
// both, to be repeated.
func TestJoinThatIsRefusedChangesNothing(t *testing.T) {
	var refusal *api.Error
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(refusal.GetStatus())
		if err := json.NewEncoder(w).Encode(refusal); err != nil {
			t.Error(err)
		}
	}))
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server.Listener.Close()
	server.Listener = listener
	keyPEM, authority := selfSigned(t, "server.culvert.internal")
	certificate, err := tls.X509KeyPair([]byte(authority), []byte(keyPEM))
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	defer server.Close()
	used := api.Errorf(api.CodeTokenInvalid, "token", "ask for another one", "it was used")
	for name, c := range map[string]struct {
		ca                 string
		refusal            *api.Error
		keyed, asked       bool // before
		wantKey, wantAsked bool
	}{
		"nothing was there":      {ca: authority, refusal: used},
		"a key was there":        {ca: authority, refusal: used, keyed: true, wantKey: true},
		"another was under way":  {ca: authority, refusal: used, keyed: true, asked: true, wantKey: true, wantAsked: true},
		"it may have come about": {ca: authority, refusal: api.Errorf(api.CodeInternal, "", "", "a fault"), wantKey: true, wantAsked: true},
		"nobody could be asked":  {refusal: used},
		"no store":               {ca: authority, refusal: api.Errorf(api.CodeUnavailable, "", "", "no store"), wantKey: true, wantAsked: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := state.Dir(t.TempDir())
			if c.keyed {
				if _, err := wire.LoadOrCreateKey(dir.WireKey()); err != nil {
					t.Fatal(err)
				}
			}
			if c.asked {
				if _, err := joining(dir, nil, "node-1"); err != nil {
					t.Fatal(err)
				}
			}
			refusal = c.refusal
			_, err := Join(t.Context(), JoinConfig{DataDir: string(dir), Servers: []string{"unix:" + socket}, CA: []byte(c.ca),
				Token: "token-1.s", Name: "node-1"})
			if err == nil || c.ca != "" && !errors.Is(err, &api.Error{Code: c.refusal.Code}) {
				t.Fatalf("error %v", err)
			}
			_, err = os.Lstat(dir.WireKey())
			if asked := dir.LoadJoining() != nil; err == nil != c.wantKey || asked != c.wantAsked {
				t.Errorf("key: %v, want %t; request kept %t, want %t", err, c.wantKey, asked, c.wantAsked)
			}
		})
	}
}
