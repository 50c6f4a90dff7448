package datapath

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/logkey"
)

// Place is where programs sit; it decides which.
type Place string

// Places.
const (
	AtWorkload Place = "workload" // host side of a workload's veth: from_workload, and at its egress what lets out answers only
	AtTunnel   Place = "tunnel"   // culvert0: from_tunnel, and the guard at its egress
	AtHost     Place = "host"     // culvert-dp: from_host
)

// hook is one program of a place.
type hook struct {
	program string
	attach  ebpf.AttachType
	suffix  string // of the pin
}

var hooks = map[Place][]hook{
	AtWorkload: {
		{fenceAnswers, ebpf.AttachTCXEgress, "-egress"},
		{bpf.ABIProgFromWorkload, ebpf.AttachTCXIngress, ""},
	},
	AtTunnel: {
		// The guard comes first: there is no moment in which the tunnel is open for the host's own packets.
		{bpf.ABIProgGuard, ebpf.AttachTCXEgress, "-egress"},
		{bpf.ABIProgFromTunnel, ebpf.AttachTCXIngress, ""},
	},
	AtHost: {{bpf.ABIProgFromHost, ebpf.AttachTCXIngress, ""}},
}

type linkKey struct {
	place   Place
	ifindex int
	egress  bool
}

// Attachment is one program at one interface.
type Attachment struct {
	Place   Place
	Ifindex int
	Egress  bool
	First   bool // no other program runs before it
}

func (h hook) egress() bool { return h.attach == ebpf.AttachTCXEgress }

func (k linkKey) hook() (hook, bool) {
	for _, h := range hooks[k.place] {
		if h.egress() == k.egress {
			return h, true
		}
	}
	return hook{}, false
}

// Directories of pins: of links, and of the programs of filters.
const (
	linkPins   = "links"
	filterPins = "filters"
)

// pinOf is where an attachment is pinned; empty when nothing is.
func (d *Datapath) pinOf(kind string, k linkKey, h hook) string {
	if d.dir == "" {
		return ""
	}
	return filepath.Join(d.dir, kind, string(k.place)+"-"+strconv.Itoa(k.ifindex)+h.suffix)
}

// parsePin reads a pin's name back.
func parsePin(name string) (linkKey, hook, bool) {
	base, egress := strings.CutSuffix(name, "-egress")
	place, index, _ := strings.Cut(base, "-")
	ifindex, err := strconv.Atoi(index)
	k := linkKey{Place(place), ifindex, egress}
	h, ok := k.hook()
	return k, h, ok && err == nil
}

// takeUp replaces the programs of pinned attachments. One whose interface is gone is let go of.
func (d *Datapath) takeUp(kind string, load func(pin string, k linkKey, h hook) (attachment, error)) error {
	entries, err := os.ReadDir(filepath.Join(d.dir, kind))
	if err != nil {
		return err
	}
	for _, e := range entries {
		k, h, ok := parsePin(e.Name())
		if !ok {
			return fmt.Errorf("pinned %s %s: not one of ours; remove it", kind, e.Name())
		}
		a, err := load(d.pinOf(kind, k, h), k, h)
		if err != nil {
			return fmt.Errorf("pinned %s %s: %w", kind, e.Name(), err)
		}
		if a.alive() {
			err := a.replace(d.coll.Programs[h.program])
			failpoint.Here("open.replaced")
			if err == nil {
				d.links[k] = a
				continue
			}
			d.log.Warn("a pinned program could not be replaced; it will be attached anew", logkey.Link, e.Name(), logkey.Error, err)
		}
		if err := a.release(); err != nil {
			return fmt.Errorf("pinned %s %s: %w", kind, e.Name(), err)
		}
	}
	return nil
}

func loadTCX(pin string, k linkKey, h hook) (attachment, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return nil, err
	}
	return newTCX(l, k.ifindex, h.attach, pin)
}

func loadClsact(pin string, k linkKey, h hook) (attachment, error) {
	p, err := ebpf.LoadPinnedProgram(pin, nil)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	id, err := programID(p)
	return &clsact{ifindex: k.ifindex, egress: k.egress, name: h.program, program: id, pin: pin}, err
}

// Secure makes sure that the place's programs are attached to the interface and run before all others, and repairs what
// is not so. While a program that lost the first place is attached anew, no program runs: the fence drops then, which is
// made sure of before, and the door behind it.
func (d *Datapath) Secure(ifindex int, place Place) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	hs, ok := hooks[place]
	if !ok {
		return fmt.Errorf("attach to interface %d: unknown place %q", ifindex, place)
	}
	_, known := d.links[linkKey{place, ifindex, false}]
	if err := d.fence(ifindex, place, known); err != nil {
		return fmt.Errorf("fence interface %d: %w", ifindex, err)
	}
	for _, h := range hs {
		if err := d.secure(linkKey{place, ifindex, h.egress()}, h); err != nil {
			return fmt.Errorf("attach %s to interface %d: %w", h.program, ifindex, err)
		}
	}
	return nil
}

func (d *Datapath) secure(k linkKey, h hook) error {
	if d.waiting() {
		if a, ok := d.before.links[k]; ok && a.alive() {
			return nil // its program is replaced when the tables are filled
		}
	}
	if a, ok := d.links[k]; ok {
		change := "was detached from %s; attached again"
		if a.alive() {
			first, err := a.first()
			if err != nil || first {
				return err
			}
			change = "was not the first program of %s; it is again"
		}
		delete(d.links, k)
		if err := a.release(); err != nil {
			return err
		}
		d.note(h.program+" "+change, nameOf(k.ifindex))
	}
	failpoint.Here("secure.before")
	a, err := d.attach(k, h)
	if err != nil {
		return err
	}
	failpoint.Here("secure.after")
	d.links[k] = a
	return nil
}

// attach uses tcx where the kernel has it.
func (d *Datapath) attach(k linkKey, h hook) (attachment, error) {
	p := d.coll.Programs[h.program]
	if !d.cfg.noTCX {
		a, err := attachTCX(k.ifindex, h.attach, p, d.pinOf(linkPins, k, h))
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return a, err
		}
		d.log.Info("this kernel has no tcx; programs are attached as filters")
		d.cfg.noTCX = true
	}
	return attachClsact(k.ifindex, k.egress, h.program, p, d.pinOf(filterPins, k, h))
}

// attachments are the own ones and, until the takeover, those of a predecessor.
func (d *Datapath) attachments() map[linkKey]attachment {
	all := maps.Clone(d.links)
	if d.before != nil {
		maps.Copy(all, d.before.links)
	}
	return all
}

// drop lets go of an attachment for good. What is absent is no error.
func (d *Datapath) drop(k linkKey) error {
	var errs []error
	sets := []map[linkKey]attachment{d.links}
	if d.before != nil {
		sets = append(sets, d.before.links)
	}
	for _, links := range sets {
		if a, ok := links[k]; ok {
			delete(links, k)
			errs = append(errs, a.release())
		}
	}
	return errors.Join(errs...)
}

// Detach takes the place's programs and fences off the interface, which may be gone already.
func (d *Datapath) Detach(ifindex int, place Place) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range hooks[place] {
		if err := d.drop(linkKey{place, ifindex, h.egress()}); err != nil {
			return fmt.Errorf("detach %s from interface %d: %w", h.program, ifindex, err)
		}
	}
	return d.unfence(ifindex, place)
}

// Attached lists what is attached to interfaces that exist, and lets go of the rest.
func (d *Datapath) Attached() ([]Attachment, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Attachment
	for k, a := range d.attachments() {
		if !a.alive() {
			if h, ok := k.hook(); ok && exists(k.ifindex) { // Secure comes too late to see it
				d.note("%s was detached from %s", h.program, nameOf(k.ifindex))
			}
			if err := d.drop(k); err != nil {
				return nil, err
			}
			continue
		}
		first, err := a.first()
		if err != nil {
			return nil, err
		}
		all = append(all, Attachment{k.place, k.ifindex, k.egress, first})
	}
	slices.SortFunc(all, compareAttachments)
	return all, nil
}
