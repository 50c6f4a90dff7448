// Package client is the typed HTTP client of Culvert's control plane, for users, for nodes and for tests. It has a method for each
// operation of docs/openapi.yaml.
//
// Every method returns *api.Error for a refusal of the server, and any other error for a failure on the way. Compare codes, with
// errors.Is(err, &api.Error{Code: …}); show people the error's text, which says what is wrong and what to do. A refusal has changed
// nothing, except that after CodeUnavailable and CodeInternal, as after a failure on the way, it may have happened: look.
//
// What breaks on the way is sent again where that does no harm, up to four times within 1.5 s, as long as the context lasts and
// Config.Timeout allows: reads; the creation of a resource, under an idempotency key that the client makes for that; and any change
// that the caller gives WithIdempotencyKey. Other changes are sent once: a deletion by name, done again, could hit what got the name
// since. API keys and join tokens are made once, because their secrets cannot be shown again. What the server puts off because it is
// asked too often is sent again after as long as the server says.
//
// Streams (Flows with Follow, StreamViews) end when their connection does, and the caller opens them again. Watches do that by
// themselves; see Watch.
package client
