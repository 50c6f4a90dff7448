package client

import (
	"context"
	"net/http"

	"github.com/culvert-net/culvert/api"
)

// PutLogKey tells the server the public key of what seals the node's log. Telling it again is harmless.
func (c *Client) PutLogKey(ctx context.Context, key api.LogKeyRequest) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodPost, "/v1/node/log-key", key)
}
