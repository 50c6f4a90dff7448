// Package format has the fields of flow log lines: AWS's of versions 2 to 11 by AWS's names, and Culvert's own. It reads format
// strings, turns flow records into lines, and joins the records of one flow over an aggregation interval. It is pure.
//
// A flow record tells both directions of a flow, a line one of them, as AWS's do: so a record makes one or two lines.
package format
