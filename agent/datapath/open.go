package datapath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/logkey"
)

// Names of maps, as the generated code has them.
const (
	mapConfig         = bpf.ABIMapConfig
	mapLinks          = bpf.ABIMapLinks
	mapENIs           = bpf.ABIMapEnis
	mapAddresses      = bpf.ABIMapAddresses
	mapRuleSets       = bpf.ABIMapRuleSets
	mapServices       = bpf.ABIMapServices
	mapTargetTables   = bpf.ABIMapTargetTables
	mapGrants         = bpf.ABIMapGrants
	mapGrantTargets   = bpf.ABIMapGrantTargets
	mapProbes         = bpf.ABIMapProbes
	mapPaths          = bpf.ABIMapPaths
	mapLogReady       = bpf.ABIMapLogReady
	mapFlows          = bpf.ABIMapFlows
	mapFragments      = bpf.ABIMapFragments
	mapFragmentRings  = bpf.ABIMapFragmentRings
	mapFragmentPairs  = bpf.ABIMapFragmentPairs
	mapFragmentShares = bpf.ABIMapFragmentShares
	mapFragmentCounts = bpf.ABIMapFragmentCounts
	mapQuotas         = bpf.ABIMapQuotas
	mapPorts          = bpf.ABIMapPorts
	mapResets         = bpf.ABIMapResets
	mapMessages       = bpf.ABIMapMessages
	mapCounters       = bpf.ABIMapCounters
	mapRefusals       = bpf.ABIMapRefusals
	mapLosses         = bpf.ABIMapLosses
	mapEvents         = bpf.ABIMapEvents
	mapPrograms       = bpf.ABIMapPrograms
	mapScratch        = bpf.ABIMapScratch
	mapOutcome        = bpf.ABIMapOutcome
)

// private maps belong to one load of the programs.
var private = map[string]bool{mapPrograms: true, mapScratch: true, mapOutcome: true}

// Datapath is the loaded BPF side. Its methods are safe for concurrent use.
type Datapath struct {
	cfg     Config
	version uint32 // of the schema
	dir     string // of this schema version; empty when nothing is pinned
	loadDir string // of the load in use; empty when loads are not pinned
	log     *slog.Logger
	coll    *ebpf.Collection
	spec    *ebpf.CollectionSpec

	mu     sync.Mutex // tables and links
	links  map[linkKey]attachment
	tables map[uint32]string // contents of inner maps that were put or compared since Open
	sets   map[uint32]string
	former map[uint32]bool // numbers of the ENIs that the plan before had
	// freed: rows were removed, or may have been, since no program ran last (settleFreed).
	freed bool
	// prompted: ends of flows were told of all permissions that went.
	prompted bool

	moving sync.RWMutex // while flows and sums move from one schema's maps to another's; after mu
	before *predecessor // nil: nothing of another schema is left

	quotaMu sync.Mutex // rows of quotas are made, or dropped

	sweepMu     sync.Mutex
	pressed     bool                    // the flow table was nearly full after the last sweep
	expected    int                     // flows that the next sweep removes, as many as the last one and a quarter more: spares growing
	quarantines map[uint64]quarantine   // by flow id, as the last sweep saw them
	flows       atomic.Int64            // that were left then
	idlePorts   map[bpf.QuotaKey]uint64 // rows of ports that nothing was charged to then, and what they ever were
	recounted   time.Duration           // boot time
	pressure    atomic.Pointer[[]Charged]

	repairs []string // with mu
}

// Open takes up what is pinned: maps, and programs where those are the very same that it would load. What is not there it makes and
// loads, and it replaces the programs of pinned links by its own. Links whose interface is gone are unpinned: Secure attaches anew.
// Where an agent of another schema was before, its programs and maps go on until the first plan is applied.
func Open(cfg Config) (*Datapath, error) {
	spec, err := bpf.LoadABI()
	if err != nil {
		return nil, fmt.Errorf("read the object: %w", err)
	}
	return open(cfg, bpf.Version, spec)
}

// open does it for the object of any schema.
func open(cfg Config, version uint32, spec *ebpf.CollectionSpec) (*Datapath, error) {
	cfg.setDefaults()
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit of locked memory: %w", err)
	}
	maps.Copy(spec.Programs, fencePrograms())
	if err := cfg.Sizes.apply(spec, version); err != nil {
		return nil, err
	}
	if cfg.OnDemand {
		spec.Maps[mapFlows].Flags |= unix.BPF_F_NO_PREALLOC
	}
	if err := spec.Variables[bpf.ABIVarTunnelL2].Set(cfg.tunnelL2); err != nil {
		return nil, fmt.Errorf("set the tunnel's link header: %w", err)
	}
	if err := bpf.ForProcessor(spec, runtime.GOARCH); err != nil {
		return nil, err
	}
	if cfg.KernelTunnel && version == bpf.Version {
		if err := placeSums(spec); err != nil {
			return nil, err
		}
	}
	if cfg.stands {
		if err := spec.Variables[bpf.ABIVarRateClockStands].Set(uint32(1)); err != nil {
			return nil, fmt.Errorf("stop the clock of rates: %w", err)
		}
	}
	if cfg.rowStall != 0 {
		if err := spec.Variables[bpf.ABIVarRowStall].Set(cfg.rowStall); err != nil {
			return nil, fmt.Errorf("set the stall of rows: %w", err)
		}
	}
	d := &Datapath{
		cfg: cfg, version: version, log: cfg.Log, spec: spec, links: map[linkKey]attachment{}, tables: map[uint32]string{},
		sets: map[uint32]string{}, freed: true,
	}
	if cfg.PinPath != "" {
		d.dir = versionDir(cfg.PinPath, version)
	}
	if err := d.load(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Datapath) load() error {
	var opts ebpf.CollectionOptions
	if d.dir != "" {
		if err := d.prepare(); err != nil {
			return err
		}
		if err := d.meetPredecessor(); err != nil {
			return err
		}
		opts.Maps.PinPath = filepath.Join(d.dir, "maps")
		if err := d.adopt(opts.Maps.PinPath); err != nil {
			return err
		}
	}
	if err := tellSizes(d.spec); err != nil {
		return err
	}
	if err := d.loadPrograms(opts); err != nil {
		return fmt.Errorf("load the programs: %w", err)
	}
	failpoint.Here("open.loaded")
	local := d.coll.Programs[bpf.ABIProgReceiveLocal]
	if err := d.coll.Maps[mapPrograms].Put(uint32(0), uint32(local.FD())); err != nil {
		return fmt.Errorf("set the tail call: %w", err)
	}
	if d.dir == "" {
		return nil
	}
	if err := d.pinTail(local); err != nil {
		return err
	}
	failpoint.Here("open.tail-pinned")
	if err := errors.Join(d.takeUp(linkPins, loadTCX), d.takeUp(filterPins, loadClsact)); err != nil {
		return err
	}
	failpoint.Here("open.taken-up")
	if err := errors.Join(d.dropTails(local), d.dropLoads()); err != nil {
		return err
	}
	return d.finish(context.Background())
}

// prepare makes the directories and, where there is none, the bpffs that they need.
func (d *Datapath) prepare() error {
	if err := mountBPFFS(d.cfg.PinPath); err != nil {
		return fmt.Errorf("pin path %s: %w", d.cfg.PinPath, err)
	}
	for _, sub := range []string{"maps", linkPins, filterPins} {
		if err := os.MkdirAll(filepath.Join(d.dir, sub), 0o700); err != nil {
			return err
		}
	}
	return d.makeLoadDirs()
}

// mountBPFFS mounts a bpffs at its usual place, or at the path itself when that lies elsewhere, unless there is one.
func mountBPFFS(path string) error {
	usual := path == usualBPFFS || strings.HasPrefix(path, usualBPFFS+"/")
	if usual {
		if err := mountInHost(); err != nil {
			return err
		}
	}
	existing := path
	for {
		var st unix.Statfs_t
		err := unix.Statfs(existing, &st)
		if err == nil && st.Type == unix.BPF_FS_MAGIC {
			return nil
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(existing) == existing {
			return err
		}
		existing = filepath.Dir(existing)
	}
	if usual {
		return mountAt(usualBPFFS)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return mountAt(path)
}

// adopt makes the specification agree with pinned maps, which keep the size that they were made with, and whether their
// entries are made in advance. A table of another size would have to be filled while some interfaces' programs write the
// old one and some the new one: flows would be lost, or answers would find none.
func (d *Datapath) adopt(dir string) error {
	for name, spec := range d.spec.Maps {
		if own(name) {
			continue
		}
		spec.Pinning = ebpf.PinByName
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			d.succeed(name, spec)
			continue
		}
		if err != nil {
			return fmt.Errorf("pinned map %s: %w", name, err)
		}
		if had := m.MaxEntries(); had != spec.MaxEntries {
			d.log.Info("a pinned map keeps its size until this machine boots", logkey.Map, name, logkey.Entries, had,
				logkey.Configured, spec.MaxEntries)
			spec.MaxEntries = had
		}
		spec.Flags = spec.Flags&^unix.BPF_F_NO_PREALLOC | m.Flags()&unix.BPF_F_NO_PREALLOC
		m.Close()
	}
	return nil
}

// tailPin is where the tail call's table of these very programs is pinned: the kernel empties such a table when no
// process and no pin holds it any more.
func (d *Datapath) tailPin(p *ebpf.Program) (string, error) {
	id, err := programID(p)
	return filepath.Join(d.dir, "programs-"+strconv.FormatUint(uint64(id), 10)), err
}

func (d *Datapath) pinTail(p *ebpf.Program) error {
	path, err := d.tailPin(p)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := d.coll.Maps[mapPrograms].Pin(path); err != nil {
		return fmt.Errorf("pin the tail call's table: %w", err)
	}
	return nil
}

// dropTails unpins the tables of earlier programs, after no link runs these any more.
func (d *Datapath) dropTails(p *ebpf.Program) error {
	keep, err := d.tailPin(p)
	if err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(d.dir, "programs-*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if path == keep {
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// Close lets go of everything; pins, and what they hold, stay.
func (d *Datapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for k, a := range d.links {
		errs = append(errs, a.close())
		delete(d.links, k)
	}
	if d.coll != nil {
		d.coll.Close()
	}
	return errors.Join(append(errs, d.before.close())...)
}

// Remove unpins everything of every schema version, after which nothing lets a packet through, and closes. Filters go
// with it, but only from interfaces of the network namespace that the caller is in.
func (d *Datapath) Remove() error {
	d.mu.Lock()
	var errs []error
	for k := range d.attachments() {
		errs = append(errs, d.drop(k), d.unfence(k.ifindex, k.place))
	}
	d.mu.Unlock()
	errs = append(errs, d.Close())
	if d.cfg.PinPath != "" {
		errs = append(errs, RemovePins(d.cfg.PinPath))
	}
	return errors.Join(errs...)
}

// RemovePins takes all pins under a pin path away, with the filters that they stand for; programs and maps end with the
// last process that holds them. A path that does not exist is no error.
func RemovePins(path string) error {
	versions, err := filepath.Glob(filepath.Join(path, "v*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range versions {
		failpoint.Here("unpin.version")
		pins, err := filepath.Glob(filepath.Join(dir, filterPins, "*"))
		if err != nil {
			return err
		}
		for _, pin := range pins {
			if k, h, ok := parsePin(filepath.Base(pin)); ok {
				a, err := loadClsact(pin, k, h)
				if err == nil {
					err = a.release()
				}
				errs = append(errs, err)
			}
		}
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// BootTime is the clock of the datapath's times.
func BootTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read the boot clock: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}
