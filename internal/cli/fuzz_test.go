package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/culvert-net/culvert/api"
)

// refusedBy: what a parser refuses names the flag or argument and says how to write it, in one line.
func refusedBy(t *testing.T, err error) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Field == "" || e.Remedy == "" {
		t.Fatalf("neither flag nor remedy: %v", err)
	}
	if s := render(nil, err); strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Fatalf("not one line: %q", s)
	}
}

// FuzzParseFlags: what flags and arguments hold is read one way, and what was read can be written again.
func FuzzParseFlags(f *testing.F) {
	for _, s := range []string{"ledger-1:8443", "ledger-1", "443:ledger", "53/udp:dns", "8000-8100", "443", "0", "65536",
		"10.0.0.0/16", "10.0.1.5", "15m",
		"2026-01-02T15:04:05Z", "-5m", "a:b:c", "\x00", "1-", "-1", "\u0661", "a:08443"} {
		f.Add(s)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		if targets, err := parseTargets([]string{s}); err != nil {
			refusedBy(t, err)
		} else if again, err := parseTargets([]string{targetText(targets[0])}); err != nil || again[0] != targets[0] {
			t.Errorf("target %q is %v, then %v", s, targets, again)
		}
		if l, err := parseListener(s); err != nil {
			refusedBy(t, err)
		} else if again, err := parseListener(fmt.Sprintf("%d/%s:%s", l.Port, l.Protocol, l.TargetGroup)); err != nil || again != l ||
			l.Port == 0 {
			t.Errorf("listener %q is %v, then %v", s, l, again)
		}
		if _, from, to, err := parsePorts("tcp", s); err != nil {
			refusedBy(t, err)
		} else if from == 0 || from > to {
			t.Errorf("ports %q are %d to %d", s, from, to)
		}
		if p, err := parsePrefix("--cidr", s); err != nil {
			refusedBy(t, err)
		} else if p.String() != s && !strings.Contains(s, ":") { // IPv6 has several spellings, and the server takes none
			t.Errorf("prefix %q is %s", s, p)
		}
		if a, err := parseAddress("--address", s); err != nil {
			refusedBy(t, err)
		} else if a.String() != s && !strings.Contains(s, ":") {
			t.Errorf("address %q is %s", s, a)
		}
		if at, err := parseTime("--since", s, now); err != nil {
			refusedBy(t, err)
		} else if again, err := parseTime("--since", at.Format(time.RFC3339Nano), now); s != "" && (err != nil || !again.Equal(at)) {
			t.Errorf("time %q is %s, then %s (%v)", s, at, again, err)
		}
	})
}

func targetText(r api.TargetRequest) string {
	if r.Port == 0 {
		return r.ENI
	}
	return fmt.Sprintf("%s:%d", r.ENI, r.Port)
}

// FuzzCredentials: a credentials file is taken as a whole or refused with its name, and never repeats the secret.
func FuzzCredentials(f *testing.F) {
	f.Add([]byte("server: https://192.0.2.1:7443\napiKey: key-1.secret\n"))
	f.Add([]byte("apiKey: [key-1.secret]\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("\tserver: x"))
	home := f.TempDir()
	s := settings{getenv: func(name string) string { return map[string]string{"HOME": home}[name] }}
	file := s.credentialsFile()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := s.readCredentials()
		if err == nil {
			return
		}
		if c != (credentials{}) {
			t.Errorf("%q is refused and yet %+v", data, c)
		}
		if text := err.Error(); !strings.Contains(text, file) || strings.ContainsFunc(text,
			func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q: %q", data, text)
		}
	})
}
