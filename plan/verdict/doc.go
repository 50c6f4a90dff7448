// Package verdict is the oracle of the datapath: Decide says what the programs in bpf/ must do with one packet under a plan,
// byte for byte. It is decision 0003 as code, slow and obvious on purpose: tables are searched row by row, packets are byte
// slices, nothing is shared with the programs. A differential test demands that both agree.
package verdict
