// Package parquetfile writes and reads flow records as Parquet files: one column per field of the format, by AWS's names with
// underscores, null for what is missing. Rows are sorted by end time within a row group, all pages of 16,384 rows begin at the same
// rows, and row groups and pages have statistics, so that a reader leaves out what cannot match. It is the only package that imports
// the Parquet library.
package parquetfile

import "strings"

const (
	// pageRows is the rows of one page: small enough that a page that matches costs little, large enough that its header and its
	// entry in the page index do not count.
	pageRows = 16 << 10
	// maxGroupRows and maxGroupBytes bound a row group, which the writer holds in memory until it is full. Bytes are those of the
	// values as held, not as compressed.
	maxGroupRows  = 1 << 20
	maxGroupBytes = 64 << 20
)

// ColumnName is the name of a field's column: AWS's, with underscores.
func ColumnName(field string) string { return strings.ReplaceAll(field, "-", "_") }

// Column is the values of one column over some rows: Ints of an integer column, else Codes into Dict. Null is empty where no value is
// missing.
type Column struct {
	Ints  []int64
	Codes []int32
	Dict  []string
	Null  []bool
}

// IsInt tells what the column holds.
func (c *Column) IsInt() bool { return c.Ints != nil }

// Len is the number of rows.
func (c *Column) Len() int { return max(len(c.Ints), len(c.Codes)) }

// Missing tells whether row i has no value.
func (c *Column) Missing(i int) bool { return len(c.Null) > 0 && c.Null[i] }
