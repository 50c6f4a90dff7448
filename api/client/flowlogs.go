package client

import (
	"context"
	"net/http"

	"github.com/culvert-net/culvert/api"
)

// CreateFlowLog makes one.
func (c *Client) CreateFlowLog(ctx context.Context, r api.CreateFlowLogRequest, o ...Option) (*api.FlowLog, error) {
	return create[api.FlowLog](ctx, c, http.MethodPost, "/v1/flow-logs", r, o...)
}

// ListFlowLogs returns all that the caller may see.
func (c *Client) ListFlowLogs(ctx context.Context, o ...Option) ([]api.FlowLog, error) {
	return list[api.FlowLog](ctx, c, "/v1/flow-logs", o...)
}

// GetFlowLog returns one.
func (c *Client) GetFlowLog(ctx context.Context, ref string, o ...Option) (*api.FlowLog, error) {
	return get[api.FlowLog](ctx, c, "/v1/flow-logs/"+segment(ref), o...)
}

// ModifyFlowLog changes the fields that are set.
func (c *Client) ModifyFlowLog(ctx context.Context, ref string, r api.ModifyFlowLogRequest, o ...Option) (*api.FlowLog, error) {
	return send[api.FlowLog](ctx, c, http.MethodPatch, "/v1/flow-logs/"+segment(ref), r, o...)
}

// DeleteFlowLog ends one.
func (c *Client) DeleteFlowLog(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/flow-logs/"+segment(ref), nil, o...)
}
