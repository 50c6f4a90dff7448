// Package query answers from flow records in files, without a server: delivered files (Parquet, gzip text, JSON lines) and evidence
// segments, in a folder or anywhere that gives ranges of bytes. It selects rows, groups and sums them, and joins what both ends of a
// flow saw.
//
// What cannot match is not read: files by the times in their names, row groups and pages of Parquet by their statistics and filters.
// Files and row groups are read on all CPUs at once, a span of rows at a time, so memory is bounded by the number of groups or rows of
// the answer, which is bounded too. A field that a file's format does not have is an error, never an empty answer.
package query
