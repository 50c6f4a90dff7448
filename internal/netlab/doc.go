// Package netlab builds network namespaces for tests that need a kernel: hosts on one underlay bridge, bare
// namespaces, veth pairs, processes inside them. Only tests import it.
//
// Every namespace of a lab is named cvt-PID-RANDOM-NAME, so labs of parallel tests do not meet. A lab has no route
// out: it is joined to nothing but itself. All of it is torn down by t.Cleanup, processes first.
//
//	lab := netlab.New(t)
//	a, b := lab.Host("a"), lab.Host("b")
//	t.Log(a.Exec("ping", "-c1", b.Underlay.String()))
//
// Helpers stop the test (t.Fatal) when the kernel refuses, so call them from the test's own goroutine. Needs root and
// iproute2.
package netlab
