package bpf

import "crypto/sha256"

// ObjectSum is SHA-256 of the object: builds that have the same one have the same programs, maps and constants.
func ObjectSum() [sha256.Size]byte { return sha256.Sum256(_ABIBytes) }
