// Package client is the typed HTTP client of Culvert's control plane, for users, for nodes and for tests.
//
// Every method returns *api.Error for a refusal of the server, and any other error for a failure on the way. A mutation is
// sent once and never retried by the client: who wants to retry gives WithIdempotencyKey and calls again.
package client
