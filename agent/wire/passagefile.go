package wire

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What passes by peer is counted in a file that processes share as memory: the counts outlive the one that counts, and who reads them
// need not ask it. Numbers are in the machine's byte order.
const (
	passageSuffix = ".passages" // of the file's name, behind the socket's

	// passageMagic ends in the version of the layout.
	passageMagic = "culvert-passages 1\n"

	// PassageSlots is how many keys of peers have a count. A node has 8,192 peers at most; a key that changed, and a peer that is gone,
	// keeps its own until that is settled.
	PassageSlots = 8192
)

type passageHead struct {
	magic [32]byte
	boot  [64]byte // of the host, as far as whoever made the file knew; zero: it did not
	_     [32]byte
}

// PassageSlot counts for one peer. One process counts; any may read.
type PassageSlot struct {
	key   PublicKey
	epoch [2]atomic.Uint64 // all zero: the slot is free
	given atomic.Uint64
	came  atomic.Uint64

	// What is written down elsewhere, of the epoch whose first half this is: of another one nothing is.
	settled                   atomic.Uint64
	settledGiven, settledCame atomic.Uint64

	node [32]byte // whose key it is; zero: nobody said

	base atomic.Uint64 // what is given beyond what stands elsewhere, modulo 2^64
}

// passageSize is the file's, in bytes.
const passageSize = int64(unsafe.Sizeof(passageHead{})) + PassageSlots*int64(unsafe.Sizeof(PassageSlot{}))

// PassageFile is such a file, mapped.
type PassageFile struct {
	mem   []byte
	head  *passageHead
	slots []PassageSlot
	index map[PublicKey]*PassageSlot // of whoever counts

	// Elsewhere is set by who has something else count what is given: it tells what stands there for a slot, and only grows.
	Elsewhere func(slot int) uint64
}

// CountPassages opens the file beside a control socket for the one process that counts, with what was counted before. It is made anew where
// there is none, or one of another boot of the host or of another layout; boot names the host's, "" where that cannot be told.
func CountPassages(socket, boot string) (*PassageFile, error) {
	f, err := openPassages(socket)
	if err != nil || f.stale(boot) {
		var old *PassageFile
		if err == nil {
			old = f
		}
		if f, err = makePassages(socket, boot); err != nil {
			return nil, fmt.Errorf("count packets by peer: %w", err)
		}
		if old != nil {
			old.Close()
		}
	}
	f.index = make(map[PublicKey]*PassageSlot)
	for i := range f.slots {
		if s := &f.slots[i]; s.used() {
			f.index[s.key] = s
		}
	}
	return f, nil
}

// stale tells whether the file is of another boot.
func (f *PassageFile) stale(boot string) bool {
	was := string(bytes.TrimRight(f.head.boot[:], "\x00"))
	return boot != "" && was != "" && was != boot
}

// makePassages puts a fresh file in place. Its pages are there from the start: a memory file system that is full must not end who counts.
func makePassages(socket, boot string) (*PassageFile, error) {
	t, err := os.CreateTemp(filepath.Dir(socket), ".passages-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer t.Close()
	head := passageHead{}
	copy(head.magic[:], passageMagic)
	copy(head.boot[:], boot)
	err = unix.Fallocate(int(t.Fd()), 0, 0, passageSize)
	if err == nil {
		_, err = t.WriteAt(unsafe.Slice((*byte)(unsafe.Pointer(&head)), unsafe.Sizeof(head)), 0)
	}
	if err == nil {
		err = os.Rename(t.Name(), socket+passageSuffix)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(t.Name()))
	}
	return mapPassages(t)
}

func openPassages(socket string) (*PassageFile, error) {
	path := socket + passageSuffix
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open counts of packets by peer: %w", err)
	}
	defer file.Close()
	f, err := mapPassages(file)
	if err != nil {
		return nil, fmt.Errorf("open counts of packets by peer: %s: %w", path, err)
	}
	return f, nil
}

// mapPassages maps an open file, which may be closed then. Nobody shortens such a file.
func mapPassages(file *os.File) (*PassageFile, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() != passageSize {
		return nil, fmt.Errorf("%s, %d bytes: want a regular file of %d", info.Mode(), info.Size(), passageSize)
	}
	mem, err := unix.Mmap(int(file.Fd()), 0, int(passageSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	f := &PassageFile{mem: mem, head: (*passageHead)(unsafe.Pointer(&mem[0]))}
	f.slots = unsafe.Slice((*PassageSlot)(unsafe.Pointer(&mem[unsafe.Sizeof(passageHead{})])), PassageSlots)
	if string(bytes.TrimRight(f.head.magic[:], "\x00")) != passageMagic {
		return nil, errors.Join(errors.New("it is of another kind, or version"), f.Close())
	}
	return f, nil
}

// Close lets go of the file, which stays. Nobody may count any more.
func (f *PassageFile) Close() error {
	mem := f.mem
	f.mem, f.head, f.slots, f.index = nil, nil, nil, nil
	return unix.Munmap(mem)
}

// Assign gives each key its slot: the one that it has, or a fresh one. A slot whose count is settled goes to another key when there is
// no free one and its own is not among these. A key for which there is none gets nil: nobody counts for it.
func (f *PassageFile) Assign(keys []PublicKey) []*PassageSlot {
	wanted := make(map[PublicKey]bool, len(keys))
	for _, key := range keys {
		wanted[key] = true
	}
	var spare []*PassageSlot // to be taken from the end: free ones first
	looked := false
	out := make([]*PassageSlot, len(keys))
	for i, key := range keys {
		if out[i] = f.index[key]; out[i] != nil {
			continue
		}
		if !looked {
			spare, looked = f.spare(wanted), true
		}
		if len(spare) == 0 {
			continue
		}
		s := spare[len(spare)-1]
		spare = spare[:len(spare)-1]
		if s.used() {
			delete(f.index, s.key)
		}
		s.begin(key, f.elsewhere(s))
		f.index[key], out[i] = s, s
	}
	return out
}

func (f *PassageFile) spare(wanted map[PublicKey]bool) (spare []*PassageSlot) {
	var free []*PassageSlot
	for i := range f.slots {
		s := &f.slots[i]
		switch {
		case !s.used():
			free = append(free, s)
		case !wanted[s.key] && !s.changed():
			spare = append(spare, s)
		}
	}
	slices.Reverse(free)
	return append(spare, free...)
}

// read returns all counts.
func (f *PassageFile) read(name func(PublicKey) string) (out []Passage) {
	for i := range f.slots {
		s := &f.slots[i]
		epoch := s.Epoch()
		if epoch == (Epoch{}) {
			continue
		}
		p := Passage{Key: s.key, Epoch: epoch, Given: s.given.Load(), Came: s.came.Load(), Changed: true}
		p.Changed = s.settled.Load() != s.epoch[0].Load() || s.settledGiven.Load() != p.Given || s.settledCame.Load() != p.Came
		if node := name(p.Key); node != "" && len(node) <= len(s.node) {
			clear(s.node[copy(s.node[:], node):])
		}
		p.Node = string(bytes.TrimRight(s.node[:], "\x00"))
		if s.Epoch() == epoch { // else the slot became another's meanwhile
			out = append(out, p)
		}
	}
	slices.SortFunc(out, comparePassages)
	return out
}

// settle notes what is written down.
func (f *PassageFile) settle(done []Passage) {
	of := make(map[Epoch]*PassageSlot, len(done))
	for i := range f.slots {
		if s := &f.slots[i]; s.used() {
			of[s.Epoch()] = s
		}
	}
	for _, p := range done {
		s := of[p.Epoch]
		if s == nil {
			continue
		}
		s.settledGiven.Store(p.Given)
		s.settledCame.Store(p.Came)
		s.settled.Store(binary.NativeEndian.Uint64(p.Epoch[:])) // last: before, it is as if nothing were
	}
}

func newEpoch() (e Epoch) {
	for binary.NativeEndian.Uint64(e[:]) == 0 {
		_, _ = rand.Read(e[:]) // never fails: it ends the program instead
	}
	return e
}

// Rebase has all slots go on from what they have, with nothing elsewhere so far.
func (f *PassageFile) Rebase() {
	for i := range f.slots {
		f.slots[i].base.Store(f.slots[i].given.Load())
	}
}

// Index is the slot's place.
func (f *PassageFile) Index(s *PassageSlot) int {
	return int((uintptr(unsafe.Pointer(s)) - uintptr(unsafe.Pointer(&f.slots[0]))) / unsafe.Sizeof(*s))
}

func (f *PassageFile) elsewhere(s *PassageSlot) uint64 {
	if f.Elsewhere == nil {
		return 0
	}
	return f.Elsewhere(f.Index(s))
}

// begin makes the slot a key's, from zero. A process that dies in between leaves it free.
func (s *PassageSlot) begin(key PublicKey, elsewhere uint64) {
	s.epoch[0].Store(0)
	s.epoch[1].Store(0)
	epoch := newEpoch()
	s.key, s.node = key, [32]byte{}
	s.given.Store(0)
	s.base.Store(-elsewhere)
	s.came.Store(0)
	s.settled.Store(0)
	s.epoch[1].Store(binary.NativeEndian.Uint64(epoch[8:]))
	s.epoch[0].Store(binary.NativeEndian.Uint64(epoch[:]))
}

func (s *PassageSlot) used() bool { return s.epoch[0].Load() != 0 }

// changed tells whether the slot has what is not settled.
func (s *PassageSlot) changed() bool {
	return s.settled.Load() != s.epoch[0].Load() || s.settledGiven.Load() != s.given.Load() || s.settledCame.Load() != s.came.Load()
}

// Epoch is that of the slot's count; zero: the slot is free.
func (s *PassageSlot) Epoch() (e Epoch) {
	first := s.epoch[0].Load()
	if first == 0 {
		return e
	}
	binary.NativeEndian.PutUint64(e[:], first)
	binary.NativeEndian.PutUint64(e[8:], s.epoch[1].Load())
	return e
}

// Give counts packets that were taken for the peer. A slot that is nil counts nothing.
func (s *PassageSlot) Give(packets uint64) {
	if s != nil {
		s.given.Add(packets)
	}
}

// GivenElsewhere takes over what was given as far as it is counted elsewhere, where so much stands.
func (s *PassageSlot) GivenElsewhere(stands uint64) {
	if s == nil {
		return
	}
	given := s.base.Load() + stands
	for had := s.given.Load(); had < given && !s.given.CompareAndSwap(had, given); had = s.given.Load() {
	}
}

// Come counts packets that came from it.
func (s *PassageSlot) Come(packets uint64) {
	if s != nil {
		s.came.Add(packets)
	}
}
