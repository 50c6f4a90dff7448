package datapath

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf"
)

// QueryLimit drops datagrams of a socket, by the address that they come from, before the kernel queues them. It lives as long as
// the sockets that it was attached to.
type QueryLimit struct{ objects bpf.QueriesObjects }

// NewQueryLimit makes one for so many datagrams a second and source, 1 to 1,000,000, as many of which may come at once.
func NewQueryLimit(perSecond int) (*QueryLimit, error) {
	if perSecond < 1 || perSecond > 1_000_000 {
		return nil, fmt.Errorf("limit of queries %d: want 1 to 1000000", perSecond)
	}
	spec, err := bpf.LoadQueries()
	if err != nil {
		return nil, fmt.Errorf("read the limit of queries: %w", err)
	}
	for name, value := range map[string]time.Duration{
		"query_interval": time.Second / time.Duration(perSecond), "query_burst": time.Second,
	} {
		if err := spec.Variables[name].Set(uint64(value)); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	l := &QueryLimit{}
	if err := spec.LoadAndAssign(&l.objects, nil); err != nil {
		return nil, fmt.Errorf("load the limit of queries: %w", err)
	}
	return l, nil
}

// Attach sets the limit for a socket of IPv6.
func (l *QueryLimit) Attach(fd uintptr) error {
	if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_BPF, l.objects.LimitQueries.FD()); err != nil {
		return fmt.Errorf("attach the limit of queries: %w", err)
	}
	return nil
}

// Dropped is how many datagrams were dropped so far.
func (l *QueryLimit) Dropped() (sum uint64, err error) {
	perCPU := make([]uint64, ebpf.MustPossibleCPU())
	if err := l.objects.QueryDropped.Lookup(uint32(0), &perCPU); err != nil {
		return 0, fmt.Errorf("read dropped queries: %w", err)
	}
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}

// Close lets go of the program; sockets keep it.
func (l *QueryLimit) Close() error { return l.objects.Close() }
