package bpf

import (
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf/internal/frame"
)

// What a new flow costs, test run included, with entries made in advance and on demand; the program makes two.
func BenchmarkNewFlow(b *testing.B) {
	const noPrealloc = 1 // BPF_F_NO_PREALLOC, linux/bpf.h
	for name, flags := range map[string]uint32{"in advance": 0, "on demand": noPrealloc} {
		b.Run(name, func(b *testing.B) {
			n := newNode(b, 1, func(s *ebpf.CollectionSpec) {
				s.Maps[ABIMapFlows].MaxEntries, s.Maps[ABIMapFlows].Flags = 1<<20, flags
			})
			n.eni(consumer, cart, 11)
			n.address(consumer, shelf, AddressWorkload, 12)
			n.link(consumer, cart)
			data := sent(frame.UDP(cart+":1", shelf+":1"), 11)
			opts := &ebpf.RunOptions{Data: data, DataOut: make([]byte, len(data)+256)}
			i := uint32(0)
			for b.Loop() {
				if i++; i%(1<<19) == 0 {
					b.StopTimer()
					n.start()
					n.eni(consumer, cart, 11)
					n.address(consumer, shelf, AddressWorkload, 12)
					n.link(consumer, cart)
					b.StartTimer()
				}
				binary.BigEndian.PutUint32(data[34:], (1+i%60_000)<<16|(1+i/60_000%60_000)) // both ports
				opts.DataOut = opts.DataOut[:cap(opts.DataOut)]
				if verdict, err := n.coll.Programs[ABIProgFromWorkload].Run(opts); err != nil || verdict != actRedirect {
					b.Fatal(verdict, err)
				}
			}
			b.StopTimer()
			if got := len(n.flows()); uint32(got) < i%(1<<19) {
				b.Fatalf("%d entries after %d flows", got, i)
			}
		})
	}
}
