package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/culvert-net/culvert/api"
)

// PutLogKey tells the server the public key of what seals the node's log. Telling it again is harmless.
func (c *Client) PutLogKey(ctx context.Context, key api.LogKeyRequest) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodPost, "/v1/node/log-key", key)
}

// LogKey returns the public key of the mesh's Merkle log.
func (c *Client) LogKey(ctx context.Context) (*api.LogKey, error) {
	return get[api.LogKey](ctx, c, "/v1/log-key")
}

// errCutOff says that a copy is not whole.
var errCutOff = errors.New("the server ended the copy before all of it came: ask again")

// Evidence calls each for the parts of a copy of evidence: files one after the other, each in order. Where an account is acted for, only
// of nodes that wrote about it. It ends without an error only when all came.
func (c *Client) Evidence(ctx context.Context, q api.EvidenceQuery, each func(api.EvidencePart) error, opts ...Option) error {
	done := false
	err := c.stream(ctx, "/v1/evidence", func(line []byte) error {
		var p api.EvidencePart
		if err := json.Unmarshal(line, &p); err != nil {
			return fmt.Errorf("evidence: decode: %w", err)
		}
		if done = done || p.Done; p.Done {
			return nil
		}
		return each(p)
	}, append(opts, func(o *callOptions) { o.query = evidenceQuery(q) })...)
	switch {
	case errors.Is(err, io.EOF) && done:
		return nil
	case errors.Is(err, io.EOF):
		return errCutOff
	}
	return err
}

func evidenceQuery(q api.EvidenceQuery) url.Values {
	v := url.Values{}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if !q.Until.IsZero() {
		v.Set("until", q.Until.UTC().Format(time.RFC3339Nano))
	}
	return v
}

// ListRetention returns how long each class is kept.
func (c *Client) ListRetention(ctx context.Context, o ...Option) ([]api.Retention, error) {
	return list[api.Retention](ctx, c, "/v1/retention", o...)
}

// ModifyRetention changes how long a class is kept.
func (c *Client) ModifyRetention(ctx context.Context, class string, r api.ModifyRetentionRequest, o ...Option) (*api.Retention, error) {
	return send[api.Retention](ctx, c, http.MethodPatch, "/v1/retention/"+segment(class), r, o...)
}

// CreateLegalHold keeps what is about something.
func (c *Client) CreateLegalHold(ctx context.Context, r api.CreateLegalHoldRequest, o ...Option) (*api.LegalHold, error) {
	return create[api.LegalHold](ctx, c, http.MethodPost, "/v1/legal-holds", r, o...)
}

// ListLegalHolds returns all of them.
func (c *Client) ListLegalHolds(ctx context.Context, o ...Option) ([]api.LegalHold, error) {
	return list[api.LegalHold](ctx, c, "/v1/legal-holds", o...)
}

// ReleaseLegalHold ends one.
func (c *Client) ReleaseLegalHold(ctx context.Context, id string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/legal-holds/"+segment(id), nil, o...)
}
