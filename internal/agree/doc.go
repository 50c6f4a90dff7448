// Package agree holds tests that compare two ways to the same answer: what judge says of resources, and what view, plan and
// verdict do with a packet on every node it passes. It exports nothing.
package agree
