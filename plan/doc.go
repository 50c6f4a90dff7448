// Package plan is the pure heart of a node: Compile turns a view and what was observed on the host into a Plan, sorted
// rows per table, each row a comparable value with a key. Diff compares tables; Dump prints a plan as text, which is golden
// file, debug output and the ground of `culvert explain`. Nothing here does I/O or reads the clock.
package plan
