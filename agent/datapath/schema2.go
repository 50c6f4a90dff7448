package datapath

import "github.com/culvert-net/culvert/bpf"

// What schema 2 pinned and this build has otherwise, as bpf/lib/abi.h had it then; schemas/2.o is its object, and a test compares. Keys,
// refusals and all rows of plans are as they were. Byte order and units are those of the fields of the same name today.

// flow2 is the value of map flows, 112 bytes.
type flow2 struct {
	Id          uint64      // at 0
	LastNs      uint64      // 8
	Packets     uint64      // 16
	Bytes       uint64      // 24
	Key         bpf.FlowKey // 32
	Generation  uint32      // 52
	PeerVpc     uint32      // 56
	Saddr       uint32      // 60
	Daddr       uint32      // 64
	Sport       uint16      // 68
	Dport       uint16      // 70
	Tag         uint16      // 72
	Next        uint8       // 74
	Hook        uint8       // 75
	Flags       uint16      // 76
	TcpFlags    uint8       // 78
	ReverseView uint8       // 79
	IdleS       uint16      // 80
	Proxy       uint8       // 82
	ProxyDone   uint8       // 83
	Isn         uint32      // 84
	Front       uint32      // 88
	Mtu         uint16      // 92
	TcpState    uint8       // 94
	Spare       uint8       // 95
	Account     uint32      // 96
	Eni         uint32      // 100
	Connection  uint32      // 104
	Rule        uint32      // 108
}

// event2 is what ring buffer events holds, 104 bytes.
type event2 struct {
	TimeNs      uint64      // at 0
	FlowId      uint64      // 8
	Packets     uint64      // 16
	Bytes       uint64      // 24
	Key         bpf.FlowKey // 32
	Saddr       uint32      // 52
	Daddr       uint32      // 56
	Sport       uint16      // 60
	Dport       uint16      // 62
	Eni         uint32      // 64
	Connection  uint32      // 68
	Rule        uint32      // 72
	Generation  uint32      // 76
	SourceVpc   uint32      // 80
	DestVpc     uint32      // 84
	Reason      uint16      // 88
	Kind        uint8       // 90
	Hook        uint8       // 91
	TcpFlags    uint8       // 92
	ReverseView uint8       // 93
	Flags       uint16      // 94
	TcpState    uint8       // 96
	Pad         [7]uint8
}

// flow2Up makes an entry of schema 2 one of today, which does not know where its sequence numbers are. Its generation is 0, which
// is never in force: it is judged again before the next packet passes. One that was being made or removed is not ok.
func flow2Up(k *bpf.FlowKey, f *flow2) (bpf.FlowKey, bpf.Flow, bool) {
	out := bpf.Flow{
		Id: f.Id, LastNs: f.LastNs, Packets: f.Packets, Bytes: f.Bytes, Key: f.Key, PeerVpc: f.PeerVpc, Saddr: f.Saddr, Daddr: f.Daddr,
		Sport: f.Sport, Dport: f.Dport, Tag: f.Tag, Next: f.Next, Hook: f.Hook, Flags: f.Flags, TcpFlags: f.TcpFlags,
		ReverseView: f.ReverseView, IdleS: f.IdleS, Proxy: f.Proxy, ProxyDone: f.ProxyDone, Isn: f.Isn, Front: f.Front, Mtu: f.Mtu,
		TcpState: f.TcpState, Account: f.Account, Eni: f.Eni, Connection: f.Connection, Rule: f.Rule,
	}
	return *k, out, f.Key == *k && f.Id != 0
}

// flow2Down is flow2Up back: what the entry knows of TCP's times and of what was sent again is forgotten.
func flow2Down(k *bpf.FlowKey, f *bpf.Flow) (bpf.FlowKey, flow2, bool) {
	out := flow2{
		Id: f.Id, LastNs: f.LastNs, Packets: f.Packets, Bytes: f.Bytes, Key: f.Key, PeerVpc: f.PeerVpc, Saddr: f.Saddr, Daddr: f.Daddr,
		Sport: f.Sport, Dport: f.Dport, Tag: f.Tag, Next: f.Next, Hook: f.Hook, Flags: f.Flags, TcpFlags: f.TcpFlags,
		ReverseView: f.ReverseView, IdleS: f.IdleS, Proxy: f.Proxy, ProxyDone: f.ProxyDone, Isn: f.Isn, Front: f.Front, Mtu: f.Mtu,
		TcpState: f.TcpState, Account: f.Account, Eni: f.Eni, Connection: f.Connection, Rule: f.Rule,
	}
	return *k, out, f.Key == *k && f.Id != 0
}

// refusal2 is the same in both schemas.
func refusal2(k *bpf.RefusalKey, r *bpf.Refusal) (bpf.RefusalKey, bpf.Refusal, bool) {
	return *k, *r, true
}

func event2Up(e *event2) (bpf.Event, bool) {
	out := bpf.Event{
		TimeNs: e.TimeNs, FlowId: e.FlowId, Packets: e.Packets, Bytes: e.Bytes, Saddr: e.Saddr, Daddr: e.Daddr,
		Sport: e.Sport, Dport: e.Dport, Eni: e.Eni, Connection: e.Connection, Rule: e.Rule, Generation: e.Generation,
		SourceVpc: e.SourceVpc, DestVpc: e.DestVpc, Reason: e.Reason, Kind: e.Kind, Hook: e.Hook, TcpFlags: e.TcpFlags,
		ReverseView: e.ReverseView, Flags: e.Flags, TcpState: e.TcpState,
	}
	out.SetFlowKey(e.Key)
	return out, true
}

func event2Down(e *bpf.Event) (event2, bool) {
	return event2{
		TimeNs: e.TimeNs, FlowId: e.FlowId, Packets: e.Packets, Bytes: e.Bytes, Key: e.FlowKey(), Saddr: e.Saddr, Daddr: e.Daddr,
		Sport: e.Sport, Dport: e.Dport, Eni: e.Eni, Connection: e.Connection, Rule: e.Rule, Generation: e.Generation,
		SourceVpc: e.SourceVpc, DestVpc: e.DestVpc, Reason: e.Reason, Kind: e.Kind, Hook: e.Hook, TcpFlags: e.TcpFlags,
		ReverseView: e.ReverseView, Flags: e.Flags, TcpState: e.TcpState,
	}, true
}
