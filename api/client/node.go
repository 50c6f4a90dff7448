package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
)

// What nodes call, and flow records. Join needs Config.CA or Config.CAPin only, the rest Config.Certificate.

// maxLine bounds one line of a stream, in bytes: a view of a large node.
const maxLine = 64 << 20

// streamSilence ends a stream on which nothing came, not even the server's keep-alive of every 10 s.
const streamSilence = 35 * time.Second

// TokenPin returns the CA pin of a join token as printed, "" if it has none.
func TokenPin(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	return parts[2]
}

// Join makes this machine a node.
func (c *Client) Join(ctx context.Context, r api.JoinRequest) (*api.JoinResponse, error) {
	return send[api.JoinResponse](ctx, c, http.MethodPost, "/v1/node/join", r)
}

// Renew exchanges the node's certificate, and tells new keys and addresses.
func (c *Client) Renew(ctx context.Context, r api.RenewRequest) (*api.JoinResponse, error) {
	return send[api.JoinResponse](ctx, c, http.MethodPost, "/v1/node/renew", r)
}

// RotateKey has peers know the node by another WireGuard key. Its device must have that key from then on.
func (c *Client) RotateKey(ctx context.Context, publicKey string) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodPost, "/v1/node/rotate-key", api.RotateKeyRequest{PublicKey: publicKey})
}

// Leave takes the node out of the mesh. With force also while interfaces are placed on it.
func (c *Client) Leave(ctx context.Context, force bool) (*api.LeaveResponse, error) {
	return send[api.LeaveResponse](ctx, c, http.MethodPost, "/v1/node/leave", api.LeaveRequest{Force: force})
}

// ReportStatus tells what the node has applied.
func (c *Client) ReportStatus(ctx context.Context, s api.NodeStatus) error {
	return c.call(ctx, http.MethodPost, "/v1/node/status", s, nil)
}

// StreamViews calls each for the node's view at once and after every change, until ctx ends, the server hangs up, nothing
// is heard for 35 s, or each returns an error. It never returns nil. The caller verifies the signature and reconnects, with jitter.
func (c *Client) StreamViews(ctx context.Context, each func(api.SignedView) error) error {
	return c.stream(ctx, "/v1/node/view", func(line []byte) error {
		var v api.SignedView
		if err := json.Unmarshal(line, &v); err != nil {
			return fmt.Errorf("view stream: decode: %w", err)
		}
		return each(v)
	})
}

// SendFlows stores flow records at the control plane. Sending one again is harmless: (boot, seq) identify it.
func (c *Client) SendFlows(ctx context.Context, records []api.FlowEnvelope) (*api.FlowReceipt, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // lines go as they were written: their seal is over these bytes
	for i := range records {
		if err := enc.Encode(&records[i]); err != nil {
			return nil, fmt.Errorf("flow record %d: encode: %w", i, err)
		}
	}
	return send[api.FlowReceipt](ctx, c, http.MethodPost, "/v1/node/flows", b.Bytes())
}

// Flows calls each for the caller's flow records, oldest first; with q.Follow it goes on until ctx ends.
func (c *Client) Flows(ctx context.Context, q api.FlowQuery, each func(api.FlowEnvelope) error) error {
	err := c.stream(ctx, "/v1/flows", func(line []byte) error {
		var f api.FlowEnvelope
		if err := json.Unmarshal(line, &f); err != nil {
			return fmt.Errorf("flow stream: decode: %w", err)
		}
		return each(f)
	}, func(o *callOptions) { o.query = flowQuery(q) })
	if errors.Is(err, io.EOF) && !q.Follow {
		return nil
	}
	return err
}

func flowQuery(q api.FlowQuery) url.Values {
	v := url.Values{}
	set := func(key, value string) {
		if value != "" {
			v.Set(key, value)
		}
	}
	if !q.Since.IsZero() {
		set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if !q.Until.IsZero() {
		set("until", q.Until.UTC().Format(time.RFC3339Nano))
	}
	set("action", q.Action)
	set("eni", q.Interface)
	set("endpoint", q.Endpoint)
	set("connection", q.Connection)
	set("service", q.Service)
	set("reason", q.Reason)
	set("vpc", q.VPC)
	set("address", q.Address)
	if q.Port != 0 {
		set("port", strconv.Itoa(int(q.Port)))
	}
	if q.Limit != 0 {
		set("limit", strconv.Itoa(q.Limit))
	}
	if q.Follow {
		set("follow", "true")
	}
	return v
}

// Queries calls each for the records of DNS questions of the caller's VPCs, oldest first; with q.Follow it goes on until ctx ends.
func (c *Client) Queries(ctx context.Context, q api.QueriesQuery, each func(*api.QueryRecord) error) error {
	err := c.stream(ctx, "/v1/queries", func(line []byte) error {
		r := new(api.QueryRecord)
		if err := json.Unmarshal(line, r); err != nil {
			return fmt.Errorf("query stream: decode: %w", err)
		}
		return each(r)
	}, func(o *callOptions) { o.query = queriesQuery(q) })
	if errors.Is(err, io.EOF) && !q.Follow {
		return nil
	}
	return err
}

func queriesQuery(q api.QueriesQuery) url.Values {
	v := flowQuery(api.FlowQuery{FlowFilter: api.FlowFilter{Since: q.Since, Until: q.Until, VPC: q.VPC, Interface: q.Interface,
		Address: q.Address, Limit: q.Limit}, Follow: q.Follow})
	for key, value := range map[string]string{"client": q.Client, "name": q.Name, "type": q.Type, "rcode": q.RCODE,
		"firewall": string(q.FirewallAction)} {
		if value != "" {
			v.Set(key, value)
		}
	}
	return v
}

// stream reads newline-delimited JSON; empty lines are keep-alives. The end of the stream is io.EOF.
func (c *Client) stream(ctx context.Context, path string, each func([]byte) error, opts ...Option) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(streamSilence, func() {
		cancel(fmt.Errorf("GET %s: nothing heard for %s", path, streamSilence))
	})
	defer silence.Stop()
	request, err := c.prepare(http.MethodGet, path, nil, opts...)
	if err != nil {
		return err
	}
	resp, err := c.do(ctx, request)
	if err != nil {
		return orCause(ctx, err)
	}
	defer resp.Body.Close()
	r := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		line, err := readLine(r)
		silence.Reset(streamSilence)
		if len(line) > 0 {
			silence.Stop()
			if err := each(line); err != nil {
				return err
			}
			silence.Reset(streamSilence)
		}
		if err != nil {
			return orCause(ctx, fmt.Errorf("GET %s: %w", path, err))
		}
	}
}

func orCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, fmt.Errorf("line longer than %d bytes", maxLine)
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimSpace(line), err
		}
	}
}
