package evidence

import (
	"github.com/culvert-net/culvert/audit/leaf"
)

// refused are ranges of the sequences of lines, in the order in which they came.
type refused []leaf.Range
