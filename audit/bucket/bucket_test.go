package bucket

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
)

const good = `buckets:
- name: logs
  endpoint: https://s3.example.com:9000
  accessKey: key
  secretKey: secret
  accounts: ["111111111111"]
  objectLock: {mode: COMPLIANCE, days: 365}
`

func write(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return file
}

// Settings that are wrong are refused with what is wrong and what to do; the server does not start with half of them.
func TestLoad(t *testing.T) {
	t.Parallel()
	key := write(t, "key", "secret\n", 0o600)
	open := write(t, "open", "secret\n", 0o644)
	empty := write(t, "empty", "\n", 0o600)
	for _, c := range []struct{ old, with, says string }{
		{"", "", ""},
		{"accounts: [\"111111111111\"]", "accounts: [\"*\"]", ""},
		{"secretKey: secret", "secretKeyFile: " + key, ""},
		{"name: logs", "name: l", "bucket"},
		{"name: logs", "title: logs", "title"},
		{"https://s3.example.com:9000", "s3.example.com:9000", "https://HOST:PORT"},
		{"https://s3.example.com:9000", "ftp://s3.example.com", "https://HOST:PORT"},
		{"https://s3.example.com:9000", "https://s3.example.com/logs", "https://HOST:PORT"},
		{"https://s3.example.com:9000", "https://u:p@s3.example.com", "https://HOST:PORT"},
		{"accessKey: key", "region: eu", "accessKey"},
		{"secretKey: secret", "pathStyle: true", "secretKey"},
		{"secretKey: secret", "secretKey: secret\n  secretKeyFile: " + key, "twice"},
		{"secretKey: secret", "secretKeyFile: " + open, "chmod 600"},
		{"secretKey: secret", "secretKeyFile: " + empty, "empty"},
		{"secretKey: secret", "secretKeyFile: key", "absolute"},
		{"accessKey: key", "accessKey: key\n  caFile: " + key, "no certificate"},
		{"accessKey: key", "accessKey: key\n  caFile: ca.pem", "absolute"},
		{"\"111111111111\"", "shop", "shop"},
		{"COMPLIANCE", "compliance", "GOVERNANCE"},
		{"days: 365", "days: 0", "36500"},
		{good, good + strings.TrimPrefix(good, "buckets:\n"), "twice"},
		{good, "buckets: []", "no buckets"},
		{good, "buckets", "docs/FLOWLOGS.md"},
	} {
		set, err := Load(write(t, "s3.yaml", strings.Replace(good, c.old, c.with, 1), 0o600))
		var e *api.Error
		switch {
		case c.says == "" && (err != nil || set["logs"] == nil):
			t.Errorf("%q: %v", c.with, err)
		case c.says != "" && (!errors.As(err, &e) || e.Field != "--s3-config" || e.Remedy == "" || !strings.Contains(err.Error()+e.Remedy, c.says)):
			t.Errorf("%q: %v", c.with, err)
		}
	}
	if _, err := Load(write(t, "s3.yaml", good, 0o640)); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file with keys that others can read: %v", err)
	}
}

func TestFor(t *testing.T) {
	t.Parallel()
	set, err := Load(write(t, "s3.yaml", good, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if set.For("111111111111", "logs") == nil || set.For("222222222222", "logs") != nil || set.For("111111111111", "other") != nil ||
		Set(nil).For("", "") != nil {
		t.Error("not those that were given the bucket may use it")
	}
}

func TestParseLocation(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Location{"s3://logs": {"logs", ""}, "s3://logs/": {"logs", ""}, "s3://logs/a/b": {"logs", "a/b"},
		"s3://logs/a/": {"logs", "a"}} {
		if have, err := ParseLocation(text); err != nil || have != want {
			t.Errorf("%s: %+v, %v", text, have, err)
		}
	}
	for _, text := range []string{"", "s3://", "s3:///a", "logs", "s3://logs//", "s3://logs//a", "s3://logs/a/../b", "s3://logs/a//", "s3://logs/./a"} {
		if have, err := ParseLocation(text); err == nil {
			t.Errorf("%s is taken as %+v", text, have)
		}
	}
}
