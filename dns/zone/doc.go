// Package zone holds the names of every VPC that a node serves and says what a question gets. It is pure: a Zone is
// built once from rows, never changes, and may be read by any number of goroutines.
//
// Every private name is a zone of its own: the name (or, for a wildcard, the name without its "*.") is the apex, and
// everything at or below an apex is private: answered here, never forwarded. The most specific apex decides, so with
// "*.pay.internal" and "a.pay.internal" the name "b.a.pay.internal" does not exist.
package zone
