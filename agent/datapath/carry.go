package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf"
)

// What a schema of before counted is added to what the next one counts already, while packets pass. An update from user space would
// lose what they add meanwhile, and an agent that died between adding and taking away would count twice. So small programs,
// made here as the fences are, do both in one test run, which no signal ends in the middle.

// Where a carrying program has what, below its stack's top, and how much of it there is at most.
const (
	carryFrom  = -64  // key in the map of before, 64 bytes
	carryTo    = -128 // key in the other one, 64 bytes
	carryValue = -384 // 256 bytes
	carryCPU   = -392

	carryHeader = 16 // bytes that every test run begins with

	// Results.
	carried    = 1
	carryNoFit = 2 // the other map has no room
)

// carrying is what to hand over between two maps, of one kind.
type carrying struct {
	from, to *ebpf.Map
	sums     int  // words of eight bytes at the value's begin that are sums
	perCPU   bool // of each CPU its own; emptied in the map of before, else deleted there
	// anyENI: what finds no room is counted with the key whose first four bytes are 0, as the programs do.
	anyENI bool
}

// program makes the program. What a packet adds on another CPU is not lost: it has its own place there, or adds atomically as
// this does; on the same CPU it comes before or after one instruction.
func (c carrying) program() (*ebpf.Program, error) {
	keyFrom, keyTo, value := int(c.from.KeySize()), int(c.to.KeySize()), int(c.to.ValueSize())
	if keyFrom > carryFrom-carryTo || keyTo > carryFrom-carryTo || value > carryTo-carryValue || 8*c.sums > value {
		return nil, fmt.Errorf("carry %s to %s: entries are too large", c.from, c.to)
	}
	at := carryHeader
	load := func(where, size int) asm.Instructions {
		at += size
		return loadBytes(at-size, where, size)
	}
	ins := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	ins = append(ins, load(carryFrom, keyFrom)...)
	ins = append(ins, load(carryTo, keyTo)...)
	if c.perCPU {
		ins = append(ins, load(carryCPU, 4)...)
		ins = append(ins, pointers(c.from, carryFrom)...)
		ins = append(ins, asm.LoadMem(asm.R3, asm.RFP, carryCPU, asm.Word), asm.FnMapLookupPercpuElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "fail"), asm.Mov.Reg(asm.R7, asm.R0))
		for w := range c.sums {
			ins = append(ins, asm.LoadMem(asm.R1, asm.R7, int16(8*w), asm.DWord),
				asm.StoreMem(asm.RFP, int16(carryValue+8*w), asm.R1, asm.DWord))
		}
	} else {
		ins = append(ins, load(carryValue, value)...)
	}
	ins = append(ins, c.add()...)
	if c.perCPU {
		ins = append(ins, asm.Mov.Imm(asm.R1, 0))
		for w := range c.sums {
			ins = append(ins, asm.StoreMem(asm.R7, int16(8*w), asm.R1, asm.DWord))
		}
	} else {
		ins = append(ins, pointers(c.from, carryFrom)...)
		ins = append(ins, asm.FnMapDeleteElem.Call())
	}
	ins = append(ins, asm.Mov.Imm(asm.R0, carried), asm.Return(),
		asm.Mov.Imm(asm.R0, carryNoFit).WithSymbol("nofit"), asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("fail"), asm.Return())
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: "culvert_carry", Type: ebpf.SchedCLS, Instructions: ins, License: "GPL"})
}

// add adds the value to the other map, or puts it there; it ends at "added", or goes to "nofit".
func (c carrying) add() asm.Instructions {
	find := append(pointers(c.to, carryTo), asm.FnMapLookupElem.Call(), asm.JNE.Imm(asm.R0, 0, "there"))
	ins := append(asm.Instructions{}, find...)
	// Before Linux 6.4 this returns an int, with anything above it.
	ins = append(append(ins, pointers(c.to, carryTo)...), asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, carryValue),
		asm.Mov.Imm(asm.R4, unix.BPF_NOEXIST), asm.FnMapUpdateElem.Call(), asm.JEq.Imm32(asm.R0, 0, "added"))
	if c.anyENI {
		ins = append(append(ins, asm.StoreImm(asm.RFP, carryTo, 0, asm.Word)), find...)
	}
	ins = append(ins, asm.Ja.Label("nofit"), asm.LoadMem(asm.R1, asm.RFP, carryValue, asm.DWord).WithSymbol("there"))
	for w := range c.sums {
		if w > 0 {
			ins = append(ins, asm.LoadMem(asm.R1, asm.RFP, int16(carryValue+8*w), asm.DWord))
		}
		ins = append(ins, asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, int16(8*w)))
	}
	return append(ins, asm.Mov.Imm(asm.R0, 0).WithSymbol("added"))
}

// pointers are a map and a key of it as helpers take them.
func pointers(m *ebpf.Map, key int) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, m.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, int32(key)),
	}
}

// loadBytes copies from the test run's input to the stack.
func loadBytes(at, where, size int) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, int32(at)), asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, int32(where)), asm.Mov.Imm(asm.R4, int32(size)), asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "fail"),
	}
}

// carryOne runs the program for one entry; parts are its keys and what else it loads.
func carryOne(p *ebpf.Program, parts ...any) (uint32, error) {
	data := make([]byte, carryHeader)
	var err error
	for _, part := range parts {
		if data, err = binary.Append(data, binary.NativeEndian, part); err != nil {
			return 0, err
		}
	}
	return p.Run(&ebpf.RunOptions{Data: data})
}

// errNoRoom: what is left comes with the next try.
var errNoRoom = errors.New("no room yet for all that the schema of before has counted")

// carryPerCPU hands over a map of sums per CPU. It may be done again, also after it was stopped anywhere.
func (c carrying) carryPerCPU() error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	p, err := c.program()
	if err != nil {
		return err
	}
	defer p.Close()
	full := false
	var key []byte
	for {
		var last any // nil: from the begin
		if key != nil {
			last = key
		}
		if key, err = c.from.NextKeyBytes(last); err != nil {
			return fmt.Errorf("read %s: %w", c.from, err)
		}
		if key == nil {
			break
		}
		if c.to.Type() == ebpf.PerCPUArray && binary.NativeEndian.Uint32(key) >= c.to.MaxEntries() {
			break // a kind that the other schema does not count
		}
		for cpu := range uint32(cpus) {
			result, err := carryOne(p, key, key, cpu)
			if err != nil {
				return fmt.Errorf("carry %s: %w", c.from, err)
			}
			full = full || result == carryNoFit
		}
	}
	if full {
		return errNoRoom
	}
	return nil
}

// carryEntries hands over a map whose entries are deleted as they go.
func (c carrying) carryEntries(ctx context.Context, entries carrier) error {
	p, err := c.program()
	if err != nil {
		return err
	}
	defer p.Close()
	full := false
	if err := entries.carry(ctx, c.from, func(from, to, value any) error {
		result, err := carryOne(p, from, to, value)
		full = full || result == carryNoFit
		return err
	}); err != nil {
		return fmt.Errorf("carry %s: %w", c.from, err)
	}
	if full {
		return errNoRoom
	}
	return nil
}

// carryEvents hands over what nobody has read. What finds no room is counted as the programs do it.
func carryEvents(from, to, losses *ebpf.Map, convert func([]byte) ([]byte, error)) error {
	reader, err := ringbuf.NewReader(from)
	if err != nil {
		return fmt.Errorf("read %s: %w", from, err)
	}
	defer reader.Close()
	reader.SetDeadline(time.Now())
	var p *ebpf.Program
	for {
		rec, err := reader.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", from, err)
		}
		event, err := convert(rec.RawSample)
		if err != nil {
			return err
		}
		if event == nil {
			continue
		}
		if p == nil {
			if p, err = eventProgram(to, losses, len(event)); err != nil {
				return err
			}
			defer p.Close()
		}
		if _, err := carryOne(p, event); err != nil {
			return fmt.Errorf("carry %s: %w", from, err)
		}
	}
}

// eventProgram puts an event of that size into a ring buffer.
func eventProgram(to, losses *ebpf.Map, size int) (*ebpf.Program, error) {
	if size > carryTo-carryValue {
		return nil, fmt.Errorf("carry events: they are too large")
	}
	ins := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	ins = append(ins, loadBytes(carryHeader, carryValue, size)...)
	ins = append(ins, pointers(to, carryValue)...)
	ins = append(ins, asm.Mov.Imm(asm.R3, int32(size)), asm.Mov.Imm(asm.R4, 0), asm.FnRingbufOutput.Call(),
		asm.JEq.Imm32(asm.R0, 0, "out"), asm.StoreImm(asm.RFP, carryTo, int64(bpf.LossEvents), asm.Word))
	ins = append(ins, pointers(losses, carryTo)...)
	ins = append(ins, asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "fail"), asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0), asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("fail"), asm.Return())
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: "culvert_event", Type: ebpf.SchedCLS, Instructions: ins, License: "GPL"})
}
