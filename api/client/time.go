package client

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// ServerTime is what the server's clock says now, good to about half a second: the Date of an answer (RFC 9110, section
// 6.6.1) has whole seconds. Any answer will do, so it needs no key.
func (c *Client) ServerTime(ctx context.Context) (time.Time, error) {
	const path = "/v1/status"
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for the time: %w", err)
	}
	sent := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for the time: %w", err)
	}
	defer resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for the time: the answer's Date: %w", err)
	}
	return at.Add(time.Second/2 + time.Since(sent)/2), nil
}
