package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestPublicKnownAnswer takes both key pairs of RFC 7748, section 6.1.
func TestPublicKnownAnswer(t *testing.T) {
	for private, public := range map[string]string{
		"77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a":// Alice
		"8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
		"5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb":// Bob
		"de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
	} {
		k, err := parseHexKey(private)
		if err != nil {
			t.Fatal(err)
		}
		if got := hexKey(PrivateKey(k).Public()); got != public {
			t.Errorf("public key of %s is %s: want %s", private, got, public)
		}
	}
}

func TestPrivateKeyNeverPrints(t *testing.T) {
	k, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("started", "key", k, "config", struct{ Key PrivateKey }{k})
	texts := []string{log.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%o", "%b", "%U", "%T"} {
		texts = append(texts, fmt.Sprintf(verb, k), fmt.Sprintf(verb, struct{ Key PrivateKey }{k}), fmt.Sprintf(verb, &k))
	}
	secrets := []string{
		base64.StdEncoding.EncodeToString(k[:]), hexKey(k), strings.ToUpper(hexKey(k)),
		strings.Trim(fmt.Sprint(k[:]), "[]"), strings.Trim(fmt.Sprintf("%#v", k[:]), "[]byte{}"),
	}
	for _, text := range texts {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("private key shows in %q", text)
			}
		}
	}
	if _, err := json.Marshal(k); err == nil {
		t.Error("private key marshals to JSON")
	}
}

func TestPublicKeyText(t *testing.T) {
	k, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := k.Public().MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var back PublicKey
	if err := back.UnmarshalText(text); err != nil || back != k.Public() {
		t.Errorf("UnmarshalText(%s) = %s, %v", text, back, err)
	}
	zero := base64.StdEncoding.EncodeToString(make([]byte, KeyLen))
	for _, bad := range []string{"", "x", string(text) + "\n", string(text)[:43], "AAAA", zero, string(text[:42]) + "/="} {
		if _, err := ParsePublicKey(bad); err == nil && bad != string(text) {
			t.Errorf("ParsePublicKey(%q) succeeds", bad)
		}
	}
}

func TestLoadOrCreateKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node", "key")
	keys := make([]PrivateKey, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = LoadOrCreateKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k.IsZero() || !k.Equal(keys[0]) {
			t.Fatal("racing callers got different keys")
		}
	}
	checkMode(t, path, 0o600)
	checkMode(t, filepath.Dir(path), 0o700)
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("directory holds %v, %v: want the key alone", left, err)
	}
}

func TestLoadKeyRefuses(t *testing.T) {
	good, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString(good[:])
	for name, c := range map[string]struct {
		content, want string
		mode          os.FileMode
	}{
		"readable by others": {text, "chmod 600", 0o644},
		"empty":              {"", "not a private key", 0o600},
		"cut":                {text[:20], "not a private key", 0o600},
		"zero":               {base64.StdEncoding.EncodeToString(make([]byte, KeyLen)), "not a private key", 0o600},
		"long":               {text + text + text + text, "not a private key", 0o600},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, []byte(c.content), c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := LoadOrCreateKey(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v: want one with %q and the path", err, c.want)
			}
			if err != nil && c.content != "" && strings.Contains(err.Error(), c.content) {
				t.Errorf("error %v shows the file's content", err)
			}
			if after, _ := os.ReadFile(path); string(after) != c.content {
				t.Error("a refused file was changed")
			}
		})
	}
}

func checkMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != want {
		t.Errorf("%s has mode %#o: want %#o", path, got, want)
	}
}
