package plan

import "github.com/culvert-net/culvert/api"

// Limits are limits that tests can set.
type Limits = limits

// CompileWithin is Compile with other limits.
func CompileWithin(v api.View, f Facts, l Limits) (*Plan, error) { return compile(v, f, l) }
