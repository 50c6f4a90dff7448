package client

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// Converged asks once whether every live node has applied a revision.
func (c *Client) Converged(ctx context.Context, revision int64) (*api.Convergence, error) {
	return c.converged(ctx, revision, 0)
}

// converged lets the server wait up to the given seconds before it answers no.
func (c *Client) converged(ctx context.Context, revision int64, waitSeconds int) (*api.Convergence, error) {
	return get[api.Convergence](ctx, c, "/v1/converged", func(o *callOptions) {
		o.query = url.Values{
			"revision":    {strconv.FormatInt(revision, 10)},
			"waitSeconds": {strconv.Itoa(waitSeconds)},
		}
	})
}

// WaitConverged returns once every live node has applied the revision, or with an error that names the nodes it waited for.
func (c *Client) WaitConverged(ctx context.Context, revision int64) error {
	var waiting []string
	for ctx.Err() == nil {
		got, err := c.converged(ctx, revision, 10)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil {
			if got.Converged {
				return nil
			}
			waiting = got.Waiting
		}
	}
	return fmt.Errorf("wait for revision %d: nodes without it: %s: %w", revision, strings.Join(waiting, ", "), ctx.Err())
}

// WaitEndpoint returns once the endpoint is Available; a state that it cannot leave by itself is an error.
func (c *Client) WaitEndpoint(ctx context.Context, ref string) (*api.Endpoint, error) {
	for {
		e, err := c.GetEndpoint(ctx, ref, func(o *callOptions) { o.query.Set("waitSeconds", "10") })
		if err != nil {
			return nil, err
		}
		switch e.State {
		case api.Available:
			return e, nil
		case api.PendingAcceptance, api.Pending:
		default:
			return e, fmt.Errorf("endpoint %s: its state is %s and stays so; see `culvert endpoint describe`", e.ID, e.State)
		}
		if ctx.Err() != nil {
			return e, errors.Join(ctx.Err(), fmt.Errorf("endpoint %s: still %s", e.ID, e.State))
		}
	}
}
