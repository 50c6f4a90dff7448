/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Changes of the packet. NAT happens while the packet is IPv4; overlay addresses are checksum-neutral, so the step
 * between IPv4 and IPv6 touches no layer 4 checksum, whatever its offload state.
 */
#ifndef CULVERT_REWRITE_H
#define CULVERT_REWRITE_H

/* Let out by the guard of culvert0: only this file sets it. Packets from a workload's namespace arrive with mark 0. */
enum { MARK_TUNNEL = 0x43554c56 };

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return sum;
}

/* Addresses in the checksum, ports, in the layer 4 header at the offset. ICMP echo has neither. */
static __noinline int rewrite_transport(struct __sk_buff *skb, const struct packet *p, const struct flow *f, __u32 offset)
{
	bool udp = p->protocol == IPPROTO_UDP;
	__u32 check = offset + (udp ? 6 : 16);
	__u64 mangled = udp ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 from[2] = { p->saddr, p->daddr }, to[2] = { f->saddr, f->daddr };
	__u16 ports_from[2] = { p->sport, p->dport }, ports_to[2] = { f->sport, f->dport };
	__s64 diff;

	if (p->protocol == IPPROTO_ICMP)
		return 0;
	if (from[0] != to[0] || from[1] != to[1]) {
		diff = bpf_csum_diff(from, sizeof(from), to, sizeof(to), 0);
		if (diff < 0 || bpf_l4_csum_replace(skb, check, 0, diff, mangled | BPF_F_PSEUDO_HDR))
			return -1;
	}
	if (ports_from[0] == ports_to[0] && ports_from[1] == ports_to[1])
		return 0;
	diff = bpf_csum_diff((__u32 *)ports_from, sizeof(ports_from), (__u32 *)ports_to, sizeof(ports_to), 0);
	if (diff < 0 || bpf_l4_csum_replace(skb, check, 0, diff, mangled))
		return -1;
	return bpf_skb_store_bytes(skb, offset, ports_to, sizeof(ports_to), 0);
}

/* Addresses of an IPv4 header that stays one. */
static __always_inline int rewrite_network(struct __sk_buff *skb, const struct packet *p, const struct flow *f)
{
	__u32 addresses[2] = { f->saddr, f->daddr };

	if (p->saddr != f->saddr && bpf_l3_csum_replace(skb, p->l3 + 10, p->saddr, f->saddr, 4))
		return -1;
	if (p->daddr != f->daddr && bpf_l3_csum_replace(skb, p->l3 + 10, p->daddr, f->daddr, 4))
		return -1;
	return bpf_skb_store_bytes(skb, p->l3 + 12, addresses, sizeof(addresses), 0);
}

/* The packet is now what the flow entry made of it. */
static __always_inline void follow(struct packet *p, const struct flow *f)
{
	p->saddr = f->saddr;
	p->daddr = f->daddr;
	p->sport = f->sport;
	p->dport = f->dport;
}

/* IPv4 → overlay. */
static __noinline int to_overlay(struct __sk_buff *skb, const struct packet *p, const struct flow *f, __u32 mesh)
{
	__u32 source_tag = TAG_IPV4 | (f->flags & FLOW_SOURCE_TAGGED ? f->tag : 0);
	__u32 dest_tag = TAG_IPV4 | (f->flags & FLOW_DEST_TAGGED ? f->tag : 0);
	struct ipv6 h = {
		.version_class_label = bpf_htonl(6 << 28 | (__u32)p->tos << 20 | (__u32)!!p->df << 16 | p->id),
		.payload = bpf_htons(p->length - 20),
		.next_header = p->protocol,
		.hop_limit = p->ttl,
	};

	if (f->next == NEXT_HOST)
		dest_tag = 0;
	overlay_write(h.saddr, mesh, f->source_vpc, f->saddr, source_tag);
	overlay_write(h.daddr, mesh, f->dest_vpc, f->daddr, dest_tag);
	if (rewrite_transport(skb, p, f, p->l3 + 20) || bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0))
		return -1;
	return bpf_skb_store_bytes(skb, p->l3, &h, sizeof(h), 0);
}

/* Overlay → IPv4, already with the entry's addresses. */
static __noinline int from_overlay(struct __sk_buff *skb, const struct packet *p, const struct flow *f)
{
	struct ipv4 h = {
		.version_ihl = 0x45,
		.tos = p->tos,
		.length = bpf_htons(p->length),
		.id = bpf_htons(p->id),
		.fragment = p->df ? bpf_htons(0x4000) : 0,
		.ttl = p->ttl,
		.protocol = p->protocol,
		.saddr = f->saddr,
		.daddr = f->daddr,
	};
	__s64 sum = bpf_csum_diff(NULL, 0, (__u32 *)&h, sizeof(h), 0);

	if (sum < 0)
		return -1;
	h.check = ~fold(sum);
	if (bpf_skb_change_proto(skb, bpf_htons(ETH_P_IP), 0) || bpf_skb_store_bytes(skb, p->l3, &h, sizeof(h), 0))
		return -1;
	return rewrite_transport(skb, p, f, p->l3 + 20);
}

static __always_inline int write_ethernet(struct __sk_buff *skb, const __u8 *dest, const __u8 *source, __u16 type)
{
	struct ethernet h = { .type = bpf_htons(type) };

	__builtin_memcpy(h.dest, dest, 6);
	__builtin_memcpy(h.source, source, 6);
	return bpf_skb_store_bytes(skb, 0, &h, sizeof(h), 0);
}

struct mss_ctx {
	struct scratch *s;
};

/*
 * One option a step; 1 ends the walk. Where the walk is stands in the map, not on the stack: Linux 6.1 verifies the body
 * of a loop once, with what the stack held before, and would take the first position for the only one.
 */
static long mss_step(__u32 i, struct mss_ctx *ctx)
{
	struct mss_walk *w = &ctx->s->walk;
	__u8 *options = ctx->s->after;
	__u32 at = w->at;
	__u8 kind, len;

	if (at >= w->end || at >= 40)
		return 1;
	kind = options[at];
	if (kind == 1) {
		w->at = at + 1;
		return 0;
	}
	if (kind == 0 || at + 1 >= w->end || at + 1 >= 40)
		return 1;
	len = options[at + 1];
	if (len < 2 || at + len > w->end)
		return 1;
	if (kind == 2 && len == 4 && at + 3 < 40 && (options[at + 2] << 8 | options[at + 3]) > w->limit) {
		options[at + 2] = w->limit >> 8;
		options[at + 3] = w->limit;
		w->changed = 1;
	}
	w->at = at + len;
	return 0;
}

/* Lowers the MSS option of a SYN or SYN-ACK to what a full packet may hold. */
static __noinline int clamp_mss(struct __sk_buff *skb, struct scratch *s, __u16 limit)
{
	struct packet *p = &s->packet;
	struct mss_ctx ctx = { .s = s };
	__u32 offset = p->l3 + 40, n = p->header - 20;
	__s64 diff;

	if (p->protocol != IPPROTO_TCP || !(p->tcp_flags & TCP_SYN))
		return 0;
	n &= 63; /* or the verifier cannot tell; and the compiler must not join the bounds into one comparison */
	barrier_var(n);
	if (n < 4)
		return 0;
	barrier_var(n);
	if (n > sizeof(s->before))
		return 0;
	__builtin_memset(s->before, 0, sizeof(s->before));
	if (bpf_skb_load_bytes(skb, offset, s->before, n))
		return -1;
	__builtin_memcpy(s->after, s->before, sizeof(s->after));
	s->walk.at = 0;
	s->walk.end = n;
	s->walk.limit = limit;
	s->walk.changed = 0;
	bpf_loop(40, mss_step, &ctx, 0);
	if (!s->walk.changed)
		return 0;
	diff = bpf_csum_diff((__u32 *)s->before, sizeof(s->before), (__u32 *)s->after, sizeof(s->after), 0);
	if (diff < 0 || bpf_l4_csum_replace(skb, p->l3 + 36, 0, diff, 0))
		return -1;
	return bpf_skb_store_bytes(skb, offset, s->after, n, 0);
}

#endif
