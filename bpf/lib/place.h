/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Where the kernel will write a checksum that it has yet to compute. A workload's packet socket may name any place in its
 * packet (virtio headers), and nothing on the way asks: two bytes of an address or port would be replaced after all was
 * checked. `culvert tunnel` looks itself; the kernel's WireGuard does not, so the guard in front of it does.
 */
#ifndef CULVERT_PLACE_H
#define CULVERT_PLACE_H

/* Offsets in struct sk_buff, which only the kernel's BTF tells: agent/datapath/place.go. All 0: nobody looks. */
const volatile __u32 sk_summed = 0;	/* the byte with ip_summed */
const volatile __u32 sk_summed_shift = 0;
const volatile __u32 sk_csum_start = 0;	/* csum_offset stands right behind */
const volatile __u32 sk_network_header = 0;

enum {
	CHECKSUM_PARTIAL = 3,	/* linux/skbuff.h; two bits */
	TCP_CHECK = 16,		/* offsets in the header */
	UDP_CHECK = 6,
};

/* Is a checksum to be written that is not the transport header's, behind the overlay's IPv6 header? What cannot be read is. */
static __always_inline bool sum_misplaced(struct __sk_buff *skb)
{
	const char *kernels = (const char *)skb;
	__u8 summed = 0, next = 0;
	__u16 place[2] = {}, network = 0;

	if (!sk_csum_start)
		return false;
	if (bpf_probe_read_kernel(&summed, sizeof(summed), kernels + sk_summed))
		return true;
	if ((summed >> (sk_summed_shift & 7) & 3) != CHECKSUM_PARTIAL)
		return false;
	if (bpf_probe_read_kernel(place, sizeof(place), kernels + sk_csum_start) ||
	    bpf_probe_read_kernel(&network, sizeof(network), kernels + sk_network_header) ||
	    bpf_skb_load_bytes(skb, tunnel_l2 + 6, &next, sizeof(next)))
		return true;
	if ((__u16)(place[0] - network) != sizeof(struct ipv6))
		return true;
	return next == IPPROTO_TCP ? place[1] != TCP_CHECK : next != IPPROTO_UDP || place[1] != UDP_CHECK;
}

#endif
