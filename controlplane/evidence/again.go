package evidence

import ()

// hourSums are the seals of a file: hashes of their lines, by their numbers.
type hourSums map[uint64]string
