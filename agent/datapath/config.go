package datapath

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
)

// Sizes are the capacities of the maps in entries. Zero fields get the defaults named. A pinned map keeps the size that
// it was made with, until the machine boots or the pins are removed.
type Sizes struct {
	Links        uint32 // workload interfaces and their ENIs; default 1024
	Addresses    uint32 // default 65,536
	RuleSets     uint32 // default 8,192: a plan's and those of the plan before it
	Services     uint32 // default 16,384
	TargetTables uint32 // default 8,192: likewise
	Grants       uint32 // default 32,768
	GrantTargets uint32 // default 131,072
	Probes       uint32 // default 16,384
	Paths        uint32 // default 65,536
	Flows        uint32 // entries, two a flow and half; default 524,288 (FlowMemory bytes of kernel memory each)
	Fragments    uint32 // sources of datagrams in fragments, within 30 s; default 1,024 (up to 10 MiB of kernel memory)
	Quotas       uint32 // accounts and halves of endpoint connections; default 65,536
	Ports        uint32 // load balancers' addresses toward targets in use, and who uses them; default 131,072
	Counters     uint32 // default 8,192
	Refusals     uint32 // default 8,192
	EventBytes   uint32 // ring buffer, a power of two of pages; default 1 MiB
}

// FlowMemory is what the kernel takes for one entry of the flow table, bytes: 208 and a bucket. An entry made on demand takes 256, and
// the bucket in advance.
const FlowMemory = 224

// Timeouts of flow entries. Idle times of TCP and UDP come with the entries themselves.
type Timeouts struct {
	Handshake      time.Duration // TCP whose handshake is not complete; default 20 s: longer than pauses between SYNs but for the last
	Closed         time.Duration // after RST or both FINs, since the last packet; default 10 s
	ClosedProvider time.Duration // the same where a source port is held, a probe's too: longer than TIME_WAIT; default 60 s
	Grace          time.Duration // between mark and final counters where the kernel cannot tell; default 1 s
}

// Config of a Datapath.
type Config struct {
	// PinPath is a directory in a bpffs, such as /sys/fs/bpf/culvert; a bpffs is mounted when there is none. Empty: nothing
	// is pinned and everything ends with the process; for tests.
	PinPath  string
	Sizes    Sizes
	OnDemand bool // entries of flows take memory only while they are there, and longer to make; a pinned map stays what it is
	Timeouts Timeouts
	Log      *slog.Logger // default slog.Default()
	// Fold tells which of these final counts of ENIs that are gone may be counted for none; it must not wait. The others stay until the
	// next plan. nil: all.
	Fold func(final []flow.Counter) (ready []bool)
	// KernelTunnel: the tunnel is the kernel's WireGuard, which computes a checksum wherever a packet says.
	KernelTunnel bool

	step     func(string) error // a moment of a takeover; an error ends it there
	noTCX    bool               // filters of clsact in place of tcx: what Linux before 6.6 has
	tunnelL2 uint32             // bytes of link header at the tunnel: 14 in test runs, which always have one
	stands   bool               // the clock of rates stands still, at 0; for tests that count
	rowStall uint32             // rounds that programs wait between finding a row and reading it
	careless careless           // what of decision 0019 is left out, to see that it is needed
}

type careless struct {
	replaces bool // the kernel puts other elements in the place of rows
}

func (c *Config) setDefaults() {
	size := func(v *uint32, def uint32) {
		if *v == 0 {
			*v = def
		}
	}
	s := &c.Sizes
	size(&s.Links, plan.MaxENIs)
	size(&s.Addresses, plan.MaxAddresses)
	size(&s.RuleSets, 2*plan.MaxRuleSets)
	size(&s.Services, plan.MaxServices)
	size(&s.TargetTables, 2*plan.MaxTargetTables)
	size(&s.Grants, plan.MaxGrants)
	size(&s.GrantTargets, plan.MaxGrantTargets)
	size(&s.Probes, plan.MaxProbes)
	size(&s.Paths, plan.MaxPaths)
	size(&s.Flows, 524_288)
	size(&s.Fragments, 1_024)
	size(&s.Quotas, 65_536)
	size(&s.Ports, 131_072)
	size(&s.Counters, 8_192)
	size(&s.Refusals, 8_192)
	size(&s.EventBytes, 1<<20)
	wait := func(v *time.Duration, def time.Duration) {
		if *v == 0 {
			*v = def
		}
	}
	wait(&c.Timeouts.Handshake, 20*time.Second)
	wait(&c.Timeouts.Closed, 10*time.Second)
	wait(&c.Timeouts.ClosedProvider, time.Minute)
	wait(&c.Timeouts.Grace, time.Second)
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// apply sets the capacities on the specification. Schemas of before lack some maps.
func (s Sizes) apply(spec *ebpf.CollectionSpec, version uint32) error {
	for name, n := range map[string]uint32{
		mapLinks: s.Links, mapENIs: s.Links, mapAddresses: s.Addresses, mapRuleSets: s.RuleSets, mapServices: s.Services,
		mapTargetTables: s.TargetTables, mapGrants: s.Grants, mapGrantTargets: s.GrantTargets, mapFlows: s.Flows, mapPaths: s.Paths, mapProbes: s.Probes,
		mapFragments: s.Fragments * uint32(bpf.FragmentsHeld), mapFragmentRings: s.Fragments, mapFragmentPairs: 4 * s.Fragments,
		mapFragmentShares: 16 * s.Fragments, mapFragmentCounts: 4 * s.Fragments,
		mapCounters: s.Counters, mapRefusals: s.Refusals, mapEvents: s.EventBytes,
		mapQuotas: s.Quotas, mapPorts: s.Ports, mapResets: s.Links, mapMessages: 4096,
	} {
		m, ok := spec.Maps[name]
		if ok {
			m.MaxEntries = n
		} else if version == bpf.Version {
			return fmt.Errorf("object has no map %s", name)
		}
	}
	return nil
}

// tellSizes tells the programs how much room their maps have, where they share it out; schemas of before do not.
func tellSizes(spec *ebpf.CollectionSpec) error {
	for variable, name := range map[string]string{
		bpf.ABIVarFragmentSources: mapFragmentRings, bpf.ABIVarFragmentPairsMost: mapFragmentPairs,
	} {
		if v, ok := spec.Variables[variable]; ok {
			if err := v.Set(spec.Maps[name].MaxEntries); err != nil {
				return fmt.Errorf("set %s: %w", variable, err)
			}
		}
	}
	return nil
}
