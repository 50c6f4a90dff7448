package cli

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/audit/tiles"
	"github.com/culvert-net/culvert/audit/treelog"
)

// ownCertificate writes a certificate for 127.0.0.1 that signs itself, and its key.
func ownCertificate(t *testing.T, cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "witness"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// startWitness runs culvert witness until the test ends, and returns its address once it answers.
func startWitness(t *testing.T, args ...string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	l.Close()
	ready := filepath.Join(t.TempDir(), "ready")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	var errs bytes.Buffer
	go func() {
		ended <- Main(ctx, append([]string{"witness", "--listen", address, "--ready-file", ready}, args...),
			Streams{In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &errs})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		if _, err := os.Stat(ready); err == nil {
			tick.Stop()
			return address
		}
		select {
		case <-limit.C:
			t.Fatal("the witness does not get ready")
		case s := <-ended:
			ended <- s
			t.Fatal("the witness ended with", s, errs.String())
		case <-tick.C:
		}
	}
}

// TestWitnessOverTLS: culvert flows verify asks culvert witness over HTTPS how far a log must go, and finds what was cut off since.
func TestWitnessOverTLS(t *testing.T) {
	dir, keys := evidence(t)
	state := t.TempDir()
	file := func(name string) string { return filepath.Join(state, name) }
	ownCertificate(t, file("cert"), file("key"))
	run := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		status := Main(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
		return status, out.String(), errs.String()
	}
	status, witnessKey, errs := run("witness", "--name", "w.example", "--state-dir", file("state"), "--print-key")
	text, err := os.ReadFile(keys)
	if err = errors.Join(err, os.WriteFile(file("both"), append(text, witnessKey...), 0o600)); status != 0 || err != nil {
		t.Fatal(errs, err)
	}
	address := "https://" + startWitness(t, "--name", "w.example", "--state-dir", file("state"), "--logs", keys, "--tls-cert", file("cert"),
		"--tls-key", file("key"))
	roots, err := certificatesIn("--witness-ca", file("cert"))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}}}
	add := func(old int, proof string, checkpoint []byte) string {
		t.Helper()
		r, err := client.Post(address+"/add-checkpoint", "text/plain", strings.NewReader(fmt.Sprintf("old %d\n%s\n%s", old, proof, checkpoint)))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		var line bytes.Buffer
		if _, err := line.ReadFrom(r.Body); err != nil || r.StatusCode != http.StatusOK {
			t.Fatal(r.Status, line.String(), err)
		}
		return line.String()
	}
	checkpoint, err := os.ReadFile(filepath.Join(dir, "log", "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	line := add(0, "", checkpoint)
	if err := os.WriteFile(filepath.Join(dir, "log", "checkpoint"), append(checkpoint, line...), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := func(args ...string) (int, string, string) {
		return run(append([]string{"flows", "verify", dir, "--keys", file("both")}, args...)...)
	}
	if status, out, errs := verify("--witness", address, "--witness-ca", file("cert")); status != 0 ||
		!strings.Contains(out, "It goes on from the checkpoint of 3 leaves that w.example cosigned at ") {
		t.Errorf("%d, %q\n%s", status, errs, out)
	}
	if status, _, errs := verify("--witness", address); status == 0 || !strings.Contains(errs, "does not answer") {
		t.Errorf("who signed its certificate is not known: %d, %s", status, errs)
	}
	if status, _, errs := verify("--witness", address, "--witness-ca", file("cert"), "--as-of", "48h"); status == 0 ||
		!strings.Contains(errs, "cosigned nothing of the log") {
		t.Errorf("of two days ago: %d, %s", status, errs)
	}
	// The log goes on where the witness sees it, and ends here.
	signer, err := treelog.NewSigner("mesh.example/log", ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	next, proof := grown(t, dir, signer)
	line = add(3, proof, next)
	if status, out, _ := verify("--witness", address, "--witness-ca", file("cert")); status != 1 ||
		!strings.Contains(out, "is of 4 leaves and w.example cosigned at ") || !strings.Contains(out, "what came then was cut off") {
		t.Errorf("%d\n%s", status, out)
	}
	saved := append(append(append(bytes.Clone(checkpoint), add(4, "", next)...), '\n'), append(next, line...)...)
	if err := os.WriteFile(file("saved"), saved, 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out, _ := verify("--witness", file("saved")); status != 1 || !strings.Contains(out, "saved, checkpoint 2: is of 4 leaves") {
		t.Errorf("%d\n%s", status, out)
	}
}

// grown is the checkpoint of a log of three leaves with one more, and the proof that it goes on from these (RFC 9162, 2.1.4).
func grown(t *testing.T, dir string, signer note.Signer) (checkpoint []byte, proof string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "log", "tile", "entries", "000.p", "3"))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := tiles.ParseBundle(data, 3)
	if err != nil {
		t.Fatal(err)
	}
	var tree tiles.Range
	var leaves []tiles.Hash
	for _, e := range append(entries, []byte("one more")) {
		h := tiles.LeafHash(e)
		leaves = append(leaves, h)
		tree.Append(h)
	}
	for _, h := range []tiles.Hash{leaves[2], leaves[3], tiles.NodeHash(leaves[0], leaves[1])} {
		proof += base64.StdEncoding.EncodeToString(h[:]) + "\n"
	}
	checkpoint, err = tiles.Sign("mesh.example/log", tree.Size, tree.Root(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return checkpoint, proof
}

// TestCertificatesAreReadAgain: a renewed one is served from then on, and one that cannot be used leaves the one before.
func TestCertificatesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	c := &certFiles{cert: filepath.Join(dir, "cert"), key: filepath.Join(dir, "key"), log: slog.New(slog.DiscardHandler)}
	if _, err := c.load(); err == nil {
		t.Error("no file is a certificate")
	}
	serve := func(at time.Time) *tls.Certificate {
		t.Helper()
		if err := errors.Join(os.Chtimes(c.cert, at, at), os.Chtimes(c.key, at, at)); err != nil {
			t.Fatal(err)
		}
		have, err := c.load()
		if err != nil {
			t.Fatal(err)
		}
		return have
	}
	ownCertificate(t, c.cert, c.key)
	now := time.Now()
	first := serve(now)
	if serve(now) != first {
		t.Error("it is read again without need")
	}
	ownCertificate(t, c.cert, c.key)
	second := serve(now.Add(time.Second))
	if bytes.Equal(first.Certificate[0], second.Certificate[0]) {
		t.Error("the renewed one is not served")
	}
	if err := os.WriteFile(c.cert, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if serve(now.Add(2*time.Second)) != second {
		t.Error("what cannot be used is served")
	}
}
