package bucket

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRangesThatAreNone: a store that answers with the whole object, or with other bytes, is an error, and not read as what was asked for.
func TestRangesThatAreNone(t *testing.T) {
	text := strings.Repeat("0123456789abcdef", 4<<10)
	ranges := ""
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Last-Modified", "Sun, 01 Mar 2026 00:00:00 GMT")
		switch ranges {
		case "served":
			http.ServeContent(w, r, "x", time.Time{}, strings.NewReader(text))
		case "ignored":
			_, _ = io.WriteString(w, text)
		case "others":
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(text)-1, len(text)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, text)
		}
	}))
	defer store.Close()
	file := filepath.Join(t.TempDir(), "s3.yaml")
	settings := fmt.Sprintf("buckets:\n- {name: logs, endpoint: '%s', accessKey: key, secretKey: secret-of-it, pathStyle: true, accounts: ['*']}\n", store.URL)
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, ranges = range []string{"served", "ignored", "others"} {
		r := all["logs"].Open(t.Context(), Info{Key: "x.log.gz", Size: int64(len(text)), etag: "e"})
		p := make([]byte, 100)
		_, err := r.ReadAt(p, 30000)
		if served := ranges == "served"; served != (err == nil) || served && string(p) != text[30000:30100] ||
			!served && !strings.Contains(err.Error(), "ranges") {
			t.Errorf("ranges are %s: %q, %v", ranges, p, err)
		}
		whole := make([]byte, len(text))
		if _, err := r.ReadAt(whole, 0); err != nil || string(whole) != text {
			t.Errorf("ranges are %s, all of an object: %v", ranges, err)
		}
	}
}
