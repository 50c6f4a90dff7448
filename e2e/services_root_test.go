package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Unmodified programs through an endpoint, between VPCs with the same addresses.

// nginx serves a directory over HTTPS; its page names the workload.
func (w *world) nginx(t *testing.T, workload string) (cert string) {
	t.Helper()
	dir := filepath.Join(w.dir, "nginx-"+workload)
	if err := os.MkdirAll(filepath.Join(dir, "www"), 0o755); err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(w.dir, "cert.pem"), filepath.Join(w.dir, "key.pem")
	if _, err := os.Stat(cert); err != nil {
		out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
			"-days", "2", "-subj", "/CN=ledger.pay.internal", "-addext", "subjectAltName=DNS:ledger.pay.internal",
			"-keyout", key, "-out", cert).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl: %v\n%s", err, out)
		}
	}
	conf := fmt.Sprintf(`daemon off; worker_processes 1; user root; pid %[1]s/pid; error_log %[1]s/err; events {}
http { access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s;
scgi_temp_path %[1]s; server { listen 443 ssl; ssl_certificate %[2]s; ssl_certificate_key %[3]s; root %[1]s/www; } }`,
		dir, cert, key)
	write(t, filepath.Join(dir, "conf"), conf)
	write(t, filepath.Join(dir, "www", "index.html"), workload+" DEMO-SECRET-MARKER\n")
	w.start(t, workload, "nginx", "-c", filepath.Join(dir, "conf"))
	eventually(t, 10*time.Second, "nginx in "+workload, func() error {
		_, err := w.run(t, workload, "curl", "-sk", "--max-time", patient(2), "https://127.0.0.1/")
		return err
	})
	return cert
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestHTTPSIsBalanced(t *testing.T) {
	w := mesh(t)
	cert := w.nginx(t, "ledger-1")
	w.nginx(t, "ledger-2")
	for _, consumer := range []string{"cart", "till"} { // across nodes, and on the provider's own node
		both := map[string]bool{} // a target that was not there when it was asked is back after two good answers
		eventually(t, 60*time.Second, "both targets to be well", func() error {
			out := w.must(t, consumer, "curl", "-sS", "--max-time", patient(5), "--cacert", cert, "https://ledger.pay.internal/")
			if both[strings.Fields(out)[0]] = true; len(both) < 2 {
				return fmt.Errorf("answers came from %v", both)
			}
			return nil
		})
		seen := map[string]int{}
		for range 30 {
			out := w.must(t, consumer, "curl", "-sS", "--max-time", patient(5), "--cacert", cert, "https://ledger.pay.internal/")
			seen[strings.Fields(out)[0]]++
		}
		if len(seen) != 2 || seen["ledger-1"]+seen["ledger-2"] != 30 {
			t.Errorf("%s: answers came from %v, want both targets", consumer, seen)
		}
	}
}

func TestPostgresCopy(t *testing.T) {
	w := mesh(t)
	dir := filepath.Join(w.dir, "pg")
	if out, err := exec.Command("../scripts/demo-postgres", dir).CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	bin, err := os.ReadFile(filepath.Join(dir, "bin"))
	if err != nil {
		t.Fatal(err)
	}
	// runuser would stay between as a parent that keeps signals to itself, and leave the server behind.
	w.start(t, "books", "setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups",
		strings.TrimSpace(string(bin))+"/postgres", "-D", dir+"/data", "-k", dir,
		"-h", "0.0.0.0")
	psql := []string{"psql", "-h", "books.pay.internal", "-U", "demo", "-d", "postgres", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c"}
	eventually(t, 30*time.Second, "postgres", func() error {
		_, err := w.run(t, "cart", append(psql, "select 1")...)
		return err
	})
	w.must(t, "cart", append(psql, "create table big (n int, t text)")...)
	file, sum := copyFile(t, filepath.Join(w.dir, "big.tsv"), 100<<20/int(slowness()))
	w.must(t, "cart", append(psql, `\copy big from '`+file+`'`)...)
	back := filepath.Join(w.dir, "back.tsv")
	w.must(t, "cart", append(psql, `\copy (select * from big order by n) to '`+back+`'`)...)
	data, err := os.ReadFile(back)
	if err != nil {
		t.Fatal(err)
	}
	if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != sum {
		t.Errorf("there and back: checksum differs (%d bytes came back)", len(data))
	}
}

// copyFile makes a file of at least n bytes for COPY, in the order of its first column.
func copyFile(t *testing.T, path string, n int) (file, sum string) {
	t.Helper()
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		h := sha256.Sum256(fmt.Append(nil, i))
		fmt.Fprintf(&b, "%d\t%s%s\n", i, hex.EncodeToString(h[:]), strings.Repeat("x", i%900))
	}
	write(t, path, b.String())
	s := sha256.Sum256([]byte(b.String()))
	return path, hex.EncodeToString(s[:])
}

func TestRedis(t *testing.T) {
	w := mesh(t)
	w.start(t, "books", "redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", w.dir)
	eventually(t, 10*time.Second, "redis", func() error {
		out, err := w.run(t, "cart", "redis-cli", "-h", "cache.pay.internal", "ping")
		if err == nil && strings.TrimSpace(out) != "PONG" {
			err = errors.New(out)
		}
		return err
	})
	out := w.must(t, "cart", "redis-benchmark", "-h", "cache.pay.internal", "-n", "20000", "-c", "50", "-t", "set,get", "-q")
	if strings.Count(out, "requests per second") < 2 {
		t.Errorf("redis-benchmark said: %s", out)
	}
}

// TestBytesArrive sends through an endpoint and back, in packets that the kernel cuts and joins on the way.
func TestBytesArrive(t *testing.T) {
	w := mesh(t)
	w.start(t, "books", "socat", "TCP4-LISTEN:5432,fork,reuseaddr", "EXEC:/bin/cat")
	eventually(t, 10*time.Second, "TCP echo", func() error {
		out, err := w.run(t, "cart", "sh", "-c", "echo ready | socat -t "+seconds(2)+" - TCP4:books.pay.internal:5432")
		if err == nil && strings.TrimSpace(out) != "ready" {
			err = fmt.Errorf("answer %q", out)
		}
		return err
	})
	file, sum := copyFile(t, filepath.Join(w.dir, "bytes"), 16<<20)
	for _, consumer := range []string{"cart", "till"} { // across nodes, and on the provider's own node
		got := strings.Fields(w.must(t, consumer, "sh", "-c",
			"socat -t "+patient(20)+" - TCP4:books.pay.internal:5432 <"+file+" | sha256sum"))
		if len(got) == 0 || got[0] != sum {
			t.Errorf("%s: the sum of what came back is %v, of what went %s", consumer, got, sum)
		}
	}
}

func TestUDPService(t *testing.T) {
	w := mesh(t)
	w.start(t, "ledger-1", "socat", "-b", "65000", "UDP4-LISTEN:7777,fork,reuseaddr", "EXEC:/bin/cat")
	eventually(t, 10*time.Second, "UDP echo", func() error {
		out, err := w.run(t, "cart", "sh", "-c", "echo over-udp | socat -t "+seconds(2)+" - UDP4:echo.pay.internal:7777")
		if err == nil && strings.TrimSpace(out) != "over-udp" {
			err = fmt.Errorf("answer %q", out)
		}
		return err
	})
	file, sum := copyFile(t, filepath.Join(w.dir, "datagram"), 20_000) // of many fragments, each way
	got := strings.Fields(w.must(t, "cart", "sh", "-c",
		"socat -b 65000 -t "+seconds(5)+" - UDP4:echo.pay.internal:7777 <"+file+" | sha256sum"))
	if len(got) == 0 || got[0] != sum {
		t.Errorf("the sum of what came back is %v, of what went %s", got, sum)
	}
}

// TestClosedPortIsTold: the target's kernel refuses a datagram, and the consumer's socket hears of it.
func TestClosedPortIsTold(t *testing.T) {
	w := mesh(t)
	eventually(t, 10*time.Second, "a refused datagram", func() error {
		out, err := w.run(t, "cart", "sh", "-c", "(echo anybody; sleep 1; echo still) | socat -t "+seconds(2)+" - UDP4:echo.pay.internal:7777 2>&1")
		if !strings.Contains(out, "Connection refused") {
			return fmt.Errorf("socat says %q, %w", out, err)
		}
		return nil
	})
}

func TestIperfBothDirections(t *testing.T) {
	w := mesh(t)
	w.start(t, "books", "iperf3", "-s", "-p", "5201")
	var last string
	measure := func(args ...string) (float64, error) {
		out, err := w.run(t, "cart", append([]string{"iperf3", "-c", "bench.pay.internal", "-p", "5201", "-t", "2", "-J"}, args...)...)
		last = out
		if err != nil {
			return 0, fmt.Errorf("%w: %s", err, out)
		}
		var r struct {
			End struct {
				SumReceived struct {
					BitsPerSecond float64 `json:"bits_per_second"`
				} `json:"sum_received"`
				Sum struct {
					BitsPerSecond float64 `json:"bits_per_second"`
				} `json:"sum"`
			} `json:"end"`
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			return 0, err
		}
		return max(r.End.SumReceived.BitsPerSecond, r.End.Sum.BitsPerSecond), nil
	}
	for name, args := range map[string][]string{"TCP forward": nil, "TCP reverse": {"-R"}, "UDP": {"-u", "-b", "50M", "-l", "1300"}} {
		eventually(t, 20*time.Second, name, func() error {
			bps, err := measure(args...)
			if err == nil && bps < 1e6 {
				err = fmt.Errorf("only %.0f bit/s: %s", bps, last)
			}
			if err == nil {
				t.Logf("%s: %.2f Gbit/s", name, bps/1e9)
			}
			return err
		})
	}
}
