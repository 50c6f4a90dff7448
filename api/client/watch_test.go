package client

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

const noPlace = `{"code":"ResourceLimitExceeded","field":"watch","message":"the key has as many watches open as it may"}`

// TestWatchWaitsForAPlace: a watch whose connection broke may find its place taken, by itself; it goes on when there is one. One that
// has heard nothing yet is refused.
func TestWatchWaitsForAPlace(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var requests atomic.Int32
	refuse := func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, noPlace)
	}
	c := clientOf(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch requests.Add(1) {
		case 1:
			_, _ = io.WriteString(w, `{"type":"Synced","revision":7}`+"\n")
		case 2, 3:
			refuse(w)
		default:
			if since := r.URL.Query().Get("sinceRevision"); since != "7" {
				t.Errorf("it goes on from %q", since)
			}
			_, _ = io.WriteString(w, `{"type":"Added","revision":9,"item":{"id":"vpc-a"}}`+"\n"+`{"type":"Bookmark","revision":9}`+"\n")
		}
	}))
	var told []api.WatchEventType
	for e, err := range c.WatchVPCs(ctx) {
		if err != nil {
			t.Fatalf("after %v and %d requests: %v", told, requests.Load(), err)
		}
		if told = append(told, e.Type); len(told) == 3 {
			break
		}
	}
	if n := requests.Load(); n != 4 {
		t.Errorf("%d requests, %v", n, told)
	}

	requests.Store(0)
	c = clientOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		refuse(w)
	}))
	for e, err := range c.WatchVPCs(ctx) {
		if err == nil {
			t.Errorf("told %+v", e)
		}
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests of one that is refused from the start", n)
	}
}
