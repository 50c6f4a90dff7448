// Package verify judges a directory of evidence by public keys alone: that the log is one tree and signed, that every segment of flow
// records is what its node sealed, that none is missing, and that records and declared losses are what the datapath counted.
// docs/EVIDENCE.md says what each step proves, and what none does.
package verify
