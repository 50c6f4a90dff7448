package cli

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/audit/tiles"
	"github.com/culvert-net/culvert/audit/treelog"
	"github.com/culvert-net/culvert/audit/verify"
)

func TestWitness(t *testing.T) {
	dir := t.TempDir()
	state, logs, ready := filepath.Join(dir, "state"), filepath.Join(dir, "logs"), filepath.Join(dir, "ready")
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	logKey := treelog.VerifierKey("mesh.example/log", key.Public().(ed25519.PublicKey))
	if err := os.WriteFile(logs, []byte(logKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var printed [2]string
	for i := range printed { // the key is made once
		var out, errs bytes.Buffer
		if status := Main(t.Context(), []string{"witness", "--name", "w.example", "--state-dir", state, "--print-key"},
			Streams{In: strings.NewReader(""), Out: &out, Err: &errs}); status != 0 {
			t.Fatal(errs.String())
		}
		printed[i] = out.String()
	}
	keys, err := verify.ParseKeys(logKey + "\n" + printed[1])
	if err != nil || printed[0] != printed[1] || len(keys.Witnesses) != 1 || keys.Witnesses[0].Name() != "w.example" {
		t.Fatalf("%q, %v", printed, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	status := make(chan int, 1)
	go func() {
		status <- Main(ctx, []string{"witness", "--name", "w.example", "--state-dir", state, "--logs", logs, "--listen", address,
			"--ready-file", ready}, Streams{In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &bytes.Buffer{}})
	}()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		if _, err := os.Stat(ready); err == nil {
			tick.Stop()
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal("it does not get ready")
		case s := <-status:
			t.Fatal("it ended with", s)
		case <-tick.C:
		}
	}
	signer, err := treelog.NewSigner("mesh.example/log", key)
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, err := tiles.Sign("mesh.example/log", 1, tiles.LeafHash([]byte("x")), signer)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 10 * time.Second}
	answer, err := client.Post("http://"+address+"/add-checkpoint", "text/plain", strings.NewReader(fmt.Sprintf("old 0\n\n%s", checkpoint)))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var line bytes.Buffer
	if _, err := line.ReadFrom(answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status, line.String(), err)
	}
	c, err := tiles.ParseSigned(append(checkpoint, line.Bytes()...))
	if err != nil {
		t.Fatal(err)
	}
	if has, valid := c.SignedBy(keys.Witnesses[0]); !has || !valid {
		t.Errorf("%s", line.Bytes())
	}
	cancel()
	if s := <-status; s != 0 {
		t.Error("it ends with", s)
	}
	if _, err := os.Stat(ready); err == nil {
		t.Error("the ready file stays")
	}
}
