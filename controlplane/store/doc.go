// Package store keeps Culvert's resources: in etcd, embedded or external, or in memory for tests.
//
// Readers take an immutable Snapshot and never wait. A writer's Txn runs against the newest snapshot and commits in one
// etcd transaction that compares the revision of the head key, which every commit writes: so commits behave as if they
// happened one after the other, whatever they read, and a commit that lost the race runs again on what won. The head key
// also holds the counters that numbers come from. It is the only package that imports etcd.
package store
