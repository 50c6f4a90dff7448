// Package flowlog keeps flow records as nodes send them: appended to one file per day, each record once, readable while
// more come in.
package flowlog
