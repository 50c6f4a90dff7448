package controlplane

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
)

// logBuffer takes lines of several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// requests are the lines of an operation.
func (l *logBuffer) requests(t *testing.T, operation string) (found []map[string]any) {
	t.Helper()
	for line := range strings.Lines(l.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if m["msg"] == "request" && m[logkey.Operation] == operation {
			found = append(found, m)
		}
	}
	return found
}

// TestAccessLog: each request leaves one line that says who asked for what and what came of it, and no secret.
func TestAccessLog(t *testing.T) {
	var log logBuffer
	l := startLab(t, func(c *Config) {
		c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	shop, ctx := l.as("shop"), l.ctx()
	must(shop.CreateVPC(ctx, api.CreateVPCRequest{Name: "v", CIDR: prefix("10.0.0.0/16")}))(t)
	_, err := shop.GetVPC(ctx, "none")
	refused := wantCode(t, err, api.CodeVPCNotFound)
	bad := l.client("key-00000000000000000.secret-of-a-stranger", "")
	if _, err := bad.ListVPCs(ctx); err == nil {
		t.Fatal("a bad key is accepted")
	}
	l.stop() // the line comes after the answer

	key, _, _ := strings.Cut(l.keys["shop"], ".")
	account := l.account("shop")
	for _, want := range []struct {
		operation, level, caller, account, code, id string
		status                                      float64
	}{
		{"create-vpc", "INFO", key, account, "", "", 200},
		{"get-vpc", "INFO", key, account, string(api.CodeVPCNotFound), refused.RequestID, 404},
		{"list-vpcs", "DEBUG", anonymous, "", string(api.CodeAuthFailure), "", 401},
	} {
		got := log.requests(t, want.operation)
		if len(got) != 1 {
			t.Errorf("%s: %d lines", want.operation, len(got))
			continue
		}
		m := got[0]
		if m["level"] != want.level || m[logkey.Caller] != want.caller || m[logkey.Account] != want.account ||
			m[logkey.Code] != want.code || m[logkey.Status] != want.status || m[logkey.Address] != "unix" ||
			m[logkey.RequestID] == "" || want.id != "" && m[logkey.RequestID] != want.id || m[logkey.DurationMS].(float64) < 0 {
			t.Errorf("%s: %v", want.operation, m)
		}
	}
	for _, secret := range []string{l.adminKey, l.keys["shop"], "secret-of-a-stranger"} {
		if _, random, ok := strings.Cut(secret, "."); ok {
			secret = random
		}
		if strings.Contains(log.String(), secret) {
			t.Errorf("a secret is in the log")
		}
	}
	if n := l.s.strangers.by[anonymous].times; n != 1 {
		t.Errorf("%d requests of strangers counted", n)
	}
}
