package bpf

// What a flow entry does not store because its key and its rewrite say it; lib/key.h is the C twin.

// KeyIPv6 is set in a key's View byte when the packet is IPv6.
const KeyIPv6 = uint8(ABIKeyBitKEY_IPV6)

// SideOf is the view of a key without its family.
func (k *ABIFlowKey) SideOf() View { return View(k.View &^ KeyIPv6) }

// inward: packets of these views go to the VPC that the key names, those of all others come from it.
func inward(v View) bool { return v == ViewConsumer || v == ViewHost || v == ViewClient }

// PeerVPC is which of the VPCs of a packet a flow entry of this key keeps: the one that the key does not name.
func (k *ABIFlowKey) PeerVPC(source, dest uint32) uint32 {
	if inward(k.SideOf()) {
		return source
	}
	return dest
}

// SourceVPC is the VPC that the entry's packets come from, as the overlay has or would have them.
func (f *ABIFlow) SourceVPC() uint32 {
	if inward(f.Key.SideOf()) {
		return f.PeerVpc
	}
	return f.Key.Vpc
}

// DestVPC is the VPC that they go to.
func (f *ABIFlow) DestVPC() uint32 {
	if inward(f.Key.SideOf()) {
		return f.Key.Vpc
	}
	return f.PeerVpc
}

// ReverseKey is the key of the other direction's entry: the rewritten tuple turned round.
func (f *ABIFlow) ReverseKey() FlowKey {
	k := FlowKey{
		Vpc: f.DestVPC(), Saddr: f.Daddr, Daddr: f.Saddr, Sport: f.Dport, Dport: f.Sport, Tag: f.Tag, View: f.ReverseView,
		Protocol: f.Key.Protocol,
	}
	if k.Protocol == protocolICMP || k.Protocol == protocolICMPv6 { // the id stands in the same place in both directions
		k.Sport, k.Dport = f.Sport, 0
	}
	if inward(k.SideOf()) {
		k.Vpc = f.SourceVPC()
	}
	return k
}

// CreatedNS is the boot time of the flow's first packet.
func (f *ABIFlow) CreatedNS() uint64 { return f.Id >> 8 }

const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)
