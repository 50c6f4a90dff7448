package tunnel_test

import "unsafe"

// ptr gives the address of a control message's bytes.
func ptr(b []byte) unsafe.Pointer { return unsafe.Pointer(&b[0]) }
