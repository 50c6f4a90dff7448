// Package judge says what the whole mesh must do with a packet, from resources alone: who may reach whom, by which endpoint,
// connection and rule, and what a name means where. It is naive on purpose and knows only api: no view, no plan, no
// program, so that a mistake in one of those cannot hide in it as well. Truth tables, properties of the control plane and
// the auditor use it.
//
// It judges what opens a flow; answers follow from that. Numbers, tags and addresses of the overlay occur only where a target
// sees them: a client's own address.
package judge
