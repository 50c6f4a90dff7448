package state_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// kept is a data directory with every file, and how each is read.
type kept struct {
	dir  state.Dir
	id   *state.Identity
	priv ed25519.PrivateKey
}

func newKept(t *testing.T) *kept {
	t.Helper()
	pub, priv := keys(t)
	keyPEM, certPEM := keyPair(t)
	k := &kept{dir: state.Dir(t.TempDir()), priv: priv,
		id: &state.Identity{Node: "node-1", Name: "a", Number: 1, Mesh: 7, ViewKey: pub, KeyPEM: keyPEM, CertificatePEM: certPEM}}
	s, err := state.SignView(priv, view(9))
	for _, err := range []error{err, k.dir.SaveIdentity(k.id), k.dir.SaveView(s),
		k.dir.SaveAttachments([]plan.Attachment{{ENI: "eni-1", Netns: "/run/netns/cart"}}),
		k.dir.SaveKeyUse(state.KeyUse{PublicKey: "k", Latest: time.Unix(1_800_000_000, 0)})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// read reads one of the files as the agent does; the text tells whether it is what was written.
func (k *kept) read(name string) (text string, err error) {
	switch name {
	case "identity.json":
		id, err := k.dir.LoadIdentity()
		if err != nil {
			return "", err
		}
		return id.Node + id.KeyPEM, nil
	case "view.json":
		v, err := k.dir.LoadView(k.id)
		if err != nil {
			return "", err
		}
		return fmt.Sprint(v.Revision), nil
	case "attachments.json":
		as, err := k.dir.LoadAttachments()
		return fmt.Sprint(as), err
	}
	u, err := k.dir.LoadKeyUse()
	return fmt.Sprint(u.PublicKey, u.Latest.Unix()), err
}

// damages are what can become of a file.
func damages() map[string]func(t *testing.T, path string, data []byte) {
	write := func(t *testing.T, path string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	random := rand.New(rand.NewPCG(3, 4))
	replace := func(make func(string) error) func(*testing.T, string, []byte) {
		return func(t *testing.T, path string, _ []byte) {
			t.Helper()
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := make(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	return map[string]func(*testing.T, string, []byte){
		"empty":      func(t *testing.T, path string, _ []byte) { write(t, path, nil) },
		"first half": func(t *testing.T, path string, data []byte) { write(t, path, data[:len(data)/2]) },
		"random": func(t *testing.T, path string, data []byte) {
			for i := range data {
				data[i] = byte(random.Uint32())
			}
			write(t, path, data)
		},
		"zeroes":                       func(t *testing.T, path string, data []byte) { write(t, path, make([]byte, len(data))) },
		"other JSON":                   func(t *testing.T, path string, _ []byte) { write(t, path, []byte("[1, 2, 3]")) },
		"of before there were formats": func(t *testing.T, path string, _ []byte) { write(t, path, []byte(`{"nodeId":"node-1"}`)) },
		"a later format": func(t *testing.T, path string, data []byte) {
			write(t, path, bytes.Replace(data, []byte(`"format": 1`), []byte(`"format": 2`), 1))
		},
		"readable by others": func(t *testing.T, path string, _ []byte) {
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"a directory": replace(func(path string) error { return os.Mkdir(path, 0o700) }),
		"a disk that cannot read it": replace(func(path string) error {
			return os.Symlink("/proc/self/mem", path) // whose first page reads as an input/output error
		}),
		"a pipe": replace(func(path string) error { return syscall.Mkfifo(path, 0o600) }),
	}
}

var files = map[string]string{ // and what the error must advise
	"identity.json":    "culvert agent join",
	"view.json":        "it comes again from the server",
	"attachments.json": "culvert eni attach",
	"wireguard.used":   "it is written anew",
}

func TestDamagedFilesAreRefusedWithARemedy(t *testing.T) {
	for name, remedy := range files {
		for what, damage := range damages() {
			k := newKept(t)
			path := k.dir.Path(name)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damage(t, path, data)
			_, err = k.read(name)
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), remedy) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
			if what == "a disk that cannot read it" && !errors.Is(err, syscall.EIO) {
				t.Errorf("%s: %v is no failure of a disk", name, err)
			}
			if what == "of before there were formats" && !strings.Contains(err.Error(), "an earlier version wrote it") {
				t.Errorf("%s: %v", name, err)
			}
			if what == "a later format" && !strings.Contains(err.Error(), "newer version") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// No flipped bit is taken for what was written: either it is noticed, or it does not matter, as in a space.
func TestFlippedBitsAreNoticed(t *testing.T) {
	for name := range files {
		k := newKept(t)
		path := k.dir.Path(name)
		want, err := k.read(name)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		noticed := 0
		for i := range data {
			data[i] ^= 1 << (i % 8)
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := k.read(name); err != nil {
				noticed++
			} else if got != want {
				t.Errorf("%s: bit %d of byte %d goes unnoticed", name, i%8, i)
			}
			data[i] ^= 1 << (i % 8)
		}
		if noticed < len(data)/2 {
			t.Errorf("%s: %d of %d flips noticed", name, noticed, len(data))
		}
	}
}

// What nobody else knows is there twice.
func TestMendFromTheCopy(t *testing.T) {
	for _, name := range []string{"identity.json", "attachments.json"} {
		for what, damage := range damages() {
			k := newKept(t)
			path := k.dir.Path(name)
			want, err := k.read(name)
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damage(t, path, data)
			mended, err := k.dir.Mend()
			if what == "a directory" { // is not ours to remove
				if err == nil || len(mended) != 0 {
					t.Errorf("%s: %s: %v, %v", name, what, mended, err)
				}
				continue
			}
			if got, errRead := k.read(name); err != nil || errRead != nil || got != want || len(mended) != 1 || !strings.Contains(mended[0], path) {
				t.Errorf("%s: %s: mended %v, %v; then %v", name, what, mended, err, errRead)
			}
			if again, err := k.dir.Mend(); err != nil || len(again) != 0 {
				t.Errorf("%s: %s: mended again: %v, %v", name, what, again, err)
			}
		}
		k := newKept(t)
		if err := os.Remove(k.dir.Path(name)); err != nil {
			t.Fatal(err)
		}
		if mended, err := k.dir.Mend(); err != nil || len(mended) != 1 {
			t.Errorf("%s: gone: %v, %v", name, mended, err)
		}
		// Both are bad: nothing is touched, and reading says what to do.
		for _, path := range []string{k.dir.Path(name), k.dir.Path(name) + ".copy"} {
			if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if mended, err := k.dir.Mend(); err != nil || len(mended) != 0 {
			t.Errorf("%s: both bad: %v, %v", name, mended, err)
		}
		if _, err := k.read(name); err == nil {
			t.Errorf("%s: both bad, and read", name)
		}
	}
}

func TestForgetForgetsTheCopies(t *testing.T) {
	k := newKept(t)
	if err := k.dir.Forget(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(string(k.dir)); !os.IsNotExist(err) {
		left, _ := os.ReadDir(string(k.dir))
		t.Errorf("left %v, %v", left, err)
	}
}

func TestViewOfAnotherNodeOrMesh(t *testing.T) {
	for what, change := range map[string]func(*api.View){
		"node": func(v *api.View) { v.Node.ID = "node-2" }, "mesh": func(v *api.View) { v.Mesh.Number = 8 },
	} {
		k := newKept(t)
		v := view(9)
		change(v)
		s, err := state.SignView(k.priv, v)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.dir.SaveView(s); err != nil {
			t.Fatal(err)
		}
		if _, err := k.dir.LoadView(k.id); err == nil || !strings.Contains(err.Error(), files["view.json"]) ||
			!strings.Contains(err.Error(), k.dir.Path("view.json")) {
			t.Errorf("another %s: %v", what, err)
		}
	}
}

// keyPair is one that passes for a node's.
func keyPair(t testing.TB) (keyPEM, certPEM string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err1 := x509.CreateCertificate(nil, tmpl, tmpl, pub, priv)
	pkcs8, err2 := x509.MarshalPKCS8PrivateKey(priv)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
