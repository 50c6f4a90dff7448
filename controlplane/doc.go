// Package controlplane is the server: it keeps resources (store), decides numbers and addresses (alloc), tells each node
// what it may know (view), issues identities (ca), stores flow records (flowlog), and speaks HTTP about all of it.
//
// A mutation is one transaction: it reads a consistent picture, checks everything, writes what changes together with its
// audit event, or changes nothing. Who is not the owner of a resource cannot tell it from one that does not exist.
package controlplane
