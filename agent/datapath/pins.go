package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/logkey"
)

// keepPins pins again what somebody unpinned. Nothing is lost as long as this process holds programs, maps and links, but
// they would end with it: forwarding would stop, and with it every flow. The lock is held.
func (d *Datapath) keepPins() error {
	if d.dir == "" {
		return nil
	}
	if err := mountBPFFS(d.cfg.PinPath); err != nil {
		return fmt.Errorf("pin path %s: %w", d.cfg.PinPath, err)
	}
	missing, err := d.missingPins()
	if err != nil || len(missing) == 0 {
		return err
	}
	d.log.Warn("pins were removed; pinned again", logkey.Path, d.dir, logkey.Pins, len(missing))
	d.note("%d pins of %s were removed; pinned again", len(missing), d.dir)
	if err := d.prepare(); err != nil {
		return err
	}
	var errs []error
	for path, pin := range missing {
		if err := pin(); err != nil {
			errs = append(errs, fmt.Errorf("pin %s again: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// missingPins are the pins that should be there and are not, by path, with how to make them.
func (d *Datapath) missingPins() (map[string]func() error, error) {
	missing := map[string]func() error{}
	var errs []error
	look := func(path string, pin func() error) {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			missing[path] = pin
		} else if err != nil {
			errs = append(errs, err)
		}
	}
	for name, m := range d.coll.Maps {
		if own(name) || name == mapFlows && d.waiting() {
			continue
		}
		path := filepath.Join(d.dir, "maps", name)
		look(path, func() error { return pinAgain(m, path) })
	}
	tail, err := d.tailPin(d.coll.Programs[bpf.ABIProgReceiveLocal])
	if err != nil {
		return nil, err
	}
	look(tail, func() error { return pinAgain(d.coll.Maps[mapPrograms], tail) })
	for path, pin := range d.loadParts() {
		look(path, pin)
	}
	for k, a := range d.links {
		if h, ok := k.hook(); ok {
			look(a.path(), func() error { return a.pinAgain(d.coll.Programs[h.program]) })
		}
	}
	return missing, errors.Join(errs...)
}

// pinAgain makes a pin whose file somebody else removed: the library still thinks that it is there.
func pinAgain(p interface {
	Unpin() error
	Pin(string) error
}, path string) error {
	if err := p.Unpin(); err != nil {
		return err
	}
	return p.Pin(path)
}

func (a *tcx) path() string { return a.pin }

func (a *tcx) pinAgain(*ebpf.Program) error { return pinAgain(a.link, a.pin) }

func (a *clsact) path() string { return a.pin }

// pinAgain puts the program in its own place: the pin is made with it.
func (a *clsact) pinAgain(p *ebpf.Program) error { return a.replace(p) }
