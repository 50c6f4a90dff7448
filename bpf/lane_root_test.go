package bpf

import (
	"encoding/binary"
	"testing"

	"github.com/culvert-net/culvert/bpf/internal/frame"
)

// The guard lets marks of lanes into the tunnel and no others.
func TestGuardKnowsLanes(t *testing.T) {
	const skbLen, skbMark, pass, drop = 192, 8, 0, 2 // struct __sk_buff; TC_ACT_OK, TC_ACT_SHOT
	n := newNode(t, 1)
	data := frame.TCP(cart+":40000", shelf+":80", frame.SYN)
	for mark, want := range map[uint32]uint32{
		uint32(TunnelMark): pass, uint32(TunnelMark) ^ 1: pass, uint32(TunnelMark) ^ uint32(Lanes-1): pass,
		uint32(TunnelMark) ^ uint32(Lanes): drop, uint32(TunnelMark) ^ 1<<31: drop, 0: drop, 1: drop,
	} {
		ctx := make([]byte, skbLen)
		binary.NativeEndian.PutUint32(ctx[skbMark:], mark)
		if got := n.run("guard", sent(data, 11), ctx).verdict; got != want {
			t.Errorf("mark %#x: verdict %d, want %d", mark, got, want)
		}
	}
}
