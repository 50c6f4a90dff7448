package e2e

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// figure sums up the lines of a process's metrics that a pattern describes, from its namespace's loopback: tests before this one may
// have had endpoints of their own for the same service.
func figure(t *testing.T, namespace, port, line string) float64 {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", "netns", "exec", namespace, "curl", "-sS", "--fail", "--max-time", patient(5),
		"http://127.0.0.1:"+port+"/metrics").Output()
	if err != nil {
		t.Fatalf("metrics of %s: %v", namespace, err)
	}
	sum := 0.0
	for _, m := range regexp.MustCompile(`(?m)^`+line+` (\S+)$`).FindAllSubmatch(out, -1) {
		v, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += v
	}
	return sum
}

// What goes through an endpoint is counted where CloudWatch would count it, on both sides, and nowhere else.
func TestMetricsCountTraffic(t *testing.T) {
	w := mesh(t)
	w.start(t, "ledger-1", "socat", "TCP-LISTEN:443,fork,reuseaddr", "EXEC:cat")
	w.start(t, "ledger-2", "socat", "TCP-LISTEN:443,fork,reuseaddr", "EXEC:cat")
	dial := func() error {
		_, err := w.run(t, "cart", "sh", "-c", "echo hello | socat -t 5 - TCP:ledger.pay.internal:443 | grep -q hello")
		return err
	}
	eventually(t, 20*time.Second, "the service", dial)
	type counter struct{ namespace, line string }
	endpoint := func(name string) counter {
		return counter{"host-a", `culvert_endpoint_` + name + `\{service_name="pay/ledger",.*\}`}
	}
	service := func(name string) counter {
		return counter{"host-b", `culvert_service_` + name + `\{service_id="[^"]*",service_name="pay/ledger",.*\}`}
	}
	other := counter{"host-a", `culvert_endpoint_new_connections_total\{service_name="pay/books",.*\}`}
	read := func(c counter) float64 { return figure(t, prefix+"-"+c.namespace, "7445", c.line) }
	settled := func() error { // the flows before have been recorded as ended
		if a, s := read(endpoint("active_connections")), read(service("active_connections")); a != 0 || s != 0 {
			return fmt.Errorf("%v and %v active", a, s)
		}
		return nil
	}
	const dials = 5
	news := [2]counter{endpoint("new_connections_total"), service("new_connections_total")}
	bytes := [2]counter{endpoint("bytes_processed_total"), service("bytes_processed_total")}
	dropped := endpoint("packets_dropped_total")
	last, since := -1.0, time.Now() // the first ones are counted when nothing has come for some intervals
	eventually(t, 30*time.Second, "the first flows are counted", func() error {
		if n := read(news[0]) + read(news[1]); n != last || n == 0 {
			last, since = n, time.Now()
		}
		if time.Since(since) < 6*time.Second {
			return fmt.Errorf("%v flows since a moment", last)
		}
		return settled()
	})
	before := map[counter]float64{}
	for _, c := range []counter{news[0], news[1], bytes[0], bytes[1], dropped, other} {
		before[c] = read(c)
	}
	for range dials {
		if err := dial(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.run(t, "cart", "sh", "-c", "socat -T 1 - TCP:ledger.pay.internal:444,connect-timeout=1 </dev/null"); err == nil {
		t.Error("a port without a listener answers")
	}
	eventually(t, 20*time.Second, "the flows are counted", func() error {
		for _, c := range news {
			if got := read(c) - before[c]; got != dials {
				return fmt.Errorf("%s: %v new connections, want %d", c.namespace, got, dials)
			}
		}
		if read(dropped) <= before[dropped] {
			return fmt.Errorf("no refusal is counted")
		}
		return settled()
	})
	a, b := read(bytes[0])-before[bytes[0]], read(bytes[1])-before[bytes[1]]
	if a < dials*2*6 || a != b {
		t.Errorf("bytes: the consumer's side counts %v, the provider's %v", a, b)
	}
	if got := read(other); got != before[other] {
		t.Errorf("another endpoint counted %v", got-before[other])
	}
	if n := figure(t, prefix+"-server", "7444", `culvert_service_endpoints\{service_id="[^"]*",service_name="pay/ledger"\}`); n != 1 {
		t.Errorf("the server counts %v endpoints of the service", n)
	}
	if up := figure(t, prefix+"-host-a", "7445", "culvert_tunnel_up"); up != 1 {
		t.Errorf("tunnel up: %v", up)
	}
}
