package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/culvert-net/culvert/bpf"
)

// Place is where programs sit; it decides which.
type Place string

// Places.
const (
	AtWorkload Place = "workload" // host side of a workload's veth: from_workload
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
	AtWorkload: {{bpf.ABIProgFromWorkload, ebpf.AttachTCXIngress, ""}},
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

type attachment struct {
	link link.Link
	id   link.ID
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

func (d *Datapath) linkPin(k linkKey, h hook) string {
	return filepath.Join(d.dir, "links", string(k.place)+"-"+strconv.Itoa(k.ifindex)+h.suffix)
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

// takeUpLinks replaces the programs of pinned links. A link whose interface is gone cannot be updated and is unpinned.
func (d *Datapath) takeUpLinks() error {
	entries, err := os.ReadDir(filepath.Join(d.dir, "links"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		k, h, ok := parsePin(e.Name())
		if !ok {
			return fmt.Errorf("pinned link %s: not one of ours; remove it", e.Name())
		}
		path := d.linkPin(k, h)
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return fmt.Errorf("pinned link %s: %w", e.Name(), err)
		}
		id, alive := tcxAlive(l, k.ifindex)
		if alive {
			if err := l.Update(d.coll.Programs[h.program]); err != nil {
				d.log.Warn("a pinned program could not be replaced; it will be attached anew", "link", e.Name(), "error", err)
				alive = false
			}
		}
		if !alive {
			l.Close()
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		d.links[k] = attachment{l, id}
	}
	return nil
}

// tcxAlive says whether the link still is at the interface: a link outlives its device, but points nowhere then.
func tcxAlive(l link.Link, ifindex int) (link.ID, bool) {
	info, err := l.Info()
	if err != nil {
		return 0, false
	}
	tcx := info.TCX()
	return info.ID, tcx != nil && int(tcx.Ifindex) == ifindex
}

// Secure makes sure that the place's programs are attached to the interface and run before all others, and repairs what
// is not so. While a program that lost the first place is attached anew, no program runs: the door drops then.
func (d *Datapath) Secure(ifindex int, place Place) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	hs, ok := hooks[place]
	if !ok {
		return fmt.Errorf("attach to interface %d: unknown place %q", ifindex, place)
	}
	for _, h := range hs {
		if err := d.secure(linkKey{place, ifindex, h.egress()}, h); err != nil {
			return fmt.Errorf("attach %s to interface %d: %w", h.program, ifindex, err)
		}
	}
	return nil
}

func (d *Datapath) secure(k linkKey, h hook) error {
	first, err := d.first(k, h)
	if err != nil || first {
		return err
	}
	if err := d.drop(k, h); err != nil {
		return err
	}
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: k.ifindex, Program: d.coll.Programs[h.program], Attach: h.attach, Anchor: link.Head(),
	})
	if err != nil {
		return err
	}
	info, err := l.Info()
	if err != nil {
		l.Close()
		return err
	}
	if d.dir != "" {
		if err := l.Pin(d.linkPin(k, h)); err != nil {
			l.Close()
			return fmt.Errorf("pin: %w", err)
		}
	}
	d.links[k] = attachment{l, info.ID}
	return nil
}

// first says whether our program is at the interface and runs before all others.
func (d *Datapath) first(k linkKey, h hook) (bool, error) {
	a, ok := d.links[k]
	if !ok {
		return false, nil
	}
	if _, alive := tcxAlive(a.link, k.ifindex); !alive {
		return false, nil
	}
	result, err := link.QueryPrograms(link.QueryOptions{Target: k.ifindex, Attach: h.attach})
	if err != nil {
		return false, err
	}
	if len(result.Programs) == 0 {
		return false, nil
	}
	id, ok := result.Programs[0].LinkID()
	return ok && id == a.id, nil
}

// drop lets go of a link for good. What is absent is no error.
func (d *Datapath) drop(k linkKey, h hook) error {
	if a, ok := d.links[k]; ok {
		delete(d.links, k)
		// Without this the kernel detaches some time after the last reference is gone.
		err := a.link.Detach()
		if errors.Is(err, link.ErrNotSupported) {
			err = nil
		}
		if err := errors.Join(err, a.link.Close()); err != nil {
			return err
		}
	}
	if d.dir == "" {
		return nil
	}
	if err := os.Remove(d.linkPin(k, h)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Detach takes the place's programs off the interface, which may be gone already.
func (d *Datapath) Detach(ifindex int, place Place) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range hooks[place] {
		if err := d.drop(linkKey{place, ifindex, h.egress()}, h); err != nil {
			return fmt.Errorf("detach %s from interface %d: %w", h.program, ifindex, err)
		}
	}
	return nil
}

// Attached lists what is attached to interfaces that exist, and lets go of the rest.
func (d *Datapath) Attached() ([]Attachment, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Attachment
	for k, a := range d.links {
		h, _ := k.hook()
		if _, alive := tcxAlive(a.link, k.ifindex); !alive {
			if err := d.drop(k, h); err != nil {
				return nil, err
			}
			continue
		}
		first, err := d.first(k, h)
		if err != nil {
			return nil, err
		}
		all = append(all, Attachment{k.place, k.ifindex, k.egress, first})
	}
	slices.SortFunc(all, compareAttachments)
	return all, nil
}
