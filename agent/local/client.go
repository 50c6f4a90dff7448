package local

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/culvert-net/culvert/api"
)

// ErrNoAgent says that the agent could not be asked at all.
var ErrNoAgent = errors.New("no agent answers")

// Client talks to the agent on this machine.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client; nothing is dialled yet.
func NewClient(socket string) *Client {
	if socket == "" {
		socket = DefaultSocket
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Attach puts an ENI into a namespace.
func (c *Client) Attach(ctx context.Context, r AttachRequest) (out AttachResponse, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/attach", r, &out)
}

// Detach takes it out.
func (c *Client) Detach(ctx context.Context, r DetachRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/detach", r, &struct{}{})
}

// Status is the node in one look.
func (c *Client) Status(ctx context.Context) (out Status, err error) {
	return out, c.call(ctx, http.MethodGet, "/v1/status", nil, &out)
}

// Explain asks what would happen to a new flow.
func (c *Client) Explain(ctx context.Context, r ExplainRequest) (out api.Explanation, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/explain", r, &out)
}

// Whois asks whose an overlay address is.
func (c *Client) Whois(ctx context.Context, address string) (out Whois, err error) {
	return out, c.call(ctx, http.MethodGet, "/v1/whois?"+url.Values{"address": {address}}.Encode(), nil, &out)
}

// PlanText is the dump of the plan in force.
func (c *Client) PlanText(ctx context.Context) (string, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/plan", nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// Flows calls fn for every record that matches, until ctx ends when follow is set.
func (c *Client) Flows(ctx context.Context, f api.FlowFilter, follow bool, fn func(*api.FlowRecord) error) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/flows?"+EncodeFilter(f, follow).Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		rec := struct {
			api.FlowRecord
			Error string `json:"error"`
		}{}
		if err := json.Unmarshal(sc.Bytes(), &rec); err != nil {
			return fmt.Errorf("flow record: %w", err)
		}
		if rec.Error != "" {
			return fmt.Errorf("agent: %s", rec.Error)
		}
		if err := fn(&rec.FlowRecord); err != nil {
			return err
		}
	}
	return sc.Err()
}

// EncodeFilter is the reverse of ParseFilter.
func EncodeFilter(f api.FlowFilter, follow bool) url.Values {
	q := url.Values{}
	set := func(k, v string) {
		if v != "" {
			q.Set(k, v)
		}
	}
	stamp := func(k string, t time.Time) {
		if !t.IsZero() {
			q.Set(k, t.Format(time.RFC3339Nano))
		}
	}
	stamp("since", f.Since)
	stamp("until", f.Until)
	set("action", f.Action)
	set("interface", f.Interface)
	set("endpoint", f.Endpoint)
	set("connection", f.Connection)
	set("service", f.Service)
	set("reason", f.Reason)
	set("vpc", f.VPC)
	set("address", f.Address)
	if f.Port != 0 {
		q.Set("port", strconv.Itoa(int(f.Port)))
	}
	if f.Limit != 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	if follow {
		q.Set("follow", "true")
	}
	return q
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("agent at %s: %w", c.socket, err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w at %s (is culvert agent running, are you root? name another's socket with --socket or "+
			"CULVERT_AGENT_SOCKET): %w", ErrNoAgent, c.socket, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &api.Error{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(e); err != nil {
		return nil, fmt.Errorf("agent at %s: %s", c.socket, resp.Status)
	}
	return nil, e
}
