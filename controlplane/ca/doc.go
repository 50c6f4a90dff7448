// Package ca is the control plane's own certificate authority: one CA certificate, short-lived server certificates with one
// fixed name, and node certificates whose SPIFFE id names the node. Nothing else chains to it.
package ca
