// Package witness cosigns checkpoints of logs, so that nobody can show one tree to one auditor and another tree to another: it signs
// only what goes on from what it has signed before (C2SP tlog-witness).
package witness
