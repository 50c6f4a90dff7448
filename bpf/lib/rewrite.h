/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Changes of the packet. Every address in it, IPv4 or in its IPv6 form, adds its 32 bits to a checksum and nothing else
 * (decision 0002), so NAT is one update whatever the families are, and the steps between them touch no checksum of layer 4,
 * whatever its offload state. BPF_F_PSEUDO_HDR would be wrong for IPv6 where the device has summed the packet
 * (CHECKSUM_COMPLETE): neither veth nor the tunnel does.
 */
#ifndef CULVERT_REWRITE_H
#define CULVERT_REWRITE_H

struct ports {			/* as a layer 4 header begins; net */
	__u16 source;
	__u16 dest;
};

struct ipv4_rest {		/* of an IPv4 header, from its checksum on; net */
	__u16 check;
	__u32 saddr;
	__u32 daddr;
} __attribute__((packed));

/* Addresses in the checksum, ports, in the layer 4 header at the offset. */
APART(rewrite_transport, (struct __sk_buff *skb, const struct packet *p, const struct flow *f, __u32 offset),
      p && f, (skb, p, f, offset), -1)
{
	bool udp = p->protocol == IPPROTO_UDP;
	__u32 check = offset + (udp ? 6 : 16);
	__u64 mangled = udp ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 from[2] = { p->wire.saddr, p->wire.daddr }, to[2] = { f->saddr, f->daddr };
	__u16 ports_from[2] = { p->wire.sport, p->wire.dport }, ports_to[2] = { f->sport, f->dport };
	struct ports ports = { f->sport, f->dport };

	if (p->about)
		return f->reverse_view & KEY_IPV6 ? rewrite_error6(skb, p, f, offset) : rewrite_error(skb, p, f, offset);
	if (is_icmp(p->protocol) || p->later) /* echo has neither */
		return 0;
	if (from[0] != to[0] || from[1] != to[1]) {
		if (bpf_l4_csum_replace(skb, check, 0, pair_diff(from, to), mangled | BPF_F_PSEUDO_HDR))
			return -1;
	}
	if (ports_from[0] == ports_to[0] && ports_from[1] == ports_to[1])
		return 0;
	if (bpf_l4_csum_replace(skb, check, 0, ports_diff(ports_from, ports_to), mangled))
		return -1;
	return store_header(skb, offset, &ports);
}

/* The id of an IPv4 fragment whose source stands for many. */
static __always_inline int rewrite_id(struct __sk_buff *skb, const struct packet *p)
{
	__u16 from = bpf_htons(p->id), to = bpf_htons(p->fresh);

	if (!p->fragment || from == to)
		return 0;
	if (bpf_l3_csum_replace(skb, p->l3 + 10, from, to, 2))
		return -1;
	return bpf_skb_store_bytes(skb, p->l3 + 4, &to, sizeof(to), 0);
}

/* Addresses of an IPv4 header that stays one. */
static __always_inline int rewrite_network(struct __sk_buff *skb, const struct packet *p, const struct flow *f)
{
	__u32 from[2] = { p->wire.saddr, p->wire.daddr }, to[2] = { f->saddr, f->daddr };
	struct ipv4_rest h;

	if (from[0] == to[0] && from[1] == to[1])
		return 0;
	if (load_header(skb, p->l3 + 10, &h))
		return -1;
	h.check = update_sum(h.check, pair_diff(from, to));
	h.saddr = f->saddr;
	h.daddr = f->daddr;
	return store_header(skb, p->l3 + 10, &h);
}

/*
 * The packet is now what the flow entry made of it, in the family of the flow's consumer, as it would be in the tunnel; the
 * header that it has will be replaced when it is delivered.
 */
static __always_inline void follow(struct packet *p, const struct flow *f)
{
	bool ipv6 = f->reverse_view & KEY_IPV6;

	if (!p->ipv6 && ipv6) {
		p->label = 0;
		p->bytes += 20 * p->packets + (p->fragment ? sizeof(struct ipv6_fragment) : 0);
	}
	if (p->ipv6 && !ipv6) {
		p->id = 0;
		p->df = !p->fragment;
		p->bytes -= 20 * p->packets + (p->fragment ? sizeof(struct ipv6_fragment) : 0);
	}
	if (p->about && p->ipv6 != ipv6) /* and so has what an error quotes */
		p->bytes += ipv6 ? 20 : 28 - p->quote;
	if (p->fragment)
		p->id = p->fresh;
	p->ipv6 = ipv6;
	p->saddr = f->saddr;
	p->daddr = f->daddr;
	p->sport = f->sport;
	p->dport = f->dport;
}

__noinline int finish_error6(struct __sk_buff *skb, const struct packet *p, const struct flow *f, const struct ipv6 *h,
				    __u32 offset);

/* The packet's IPv6 header after the entry: a packet that was of the other family has no flow label of its own. */
static __always_inline void ipv6_header(struct ipv6 *h, const struct packet *p, const struct flow *f)
{
	bool ipv6 = f->reverse_view & KEY_IPV6;
	__u32 label = p->ipv6 ? p->label : (__u32)!!p->df << 16 | (p->id & 0xffff);

	if (!p->ipv6 && ipv6)
		label = 0;
	if (p->ipv6 && !ipv6)
		label = p->fragment ? p->fresh : 1 << 16; /* the overlay's form of id, or DF */
	h->version_class_label = bpf_htonl(6 << 28 | (__u32)p->tos << 20 | label);
	h->payload = bpf_htons(p->length - 20);
	h->next_header = p->protocol;
	h->hop_limit = p->ttl;
	if (p->fragment) {
		h->next_header = IPPROTO_FRAGMENT;
		h->payload = bpf_htons(p->length - 20 + sizeof(struct ipv6_fragment));
	}
}

/* → overlay, from either family. */
APART(to_overlay, (struct __sk_buff *skb, const struct packet *p, const struct flow *f, __u32 mesh),
      p && f, (skb, p, f, mesh), -1)
{
	__u32 family = f->reverse_view & KEY_IPV6 ? 0 : TAG_IPV4;
	__u32 source_tag = family | (f->flags & FLOW_SOURCE_TAGGED ? f->tag : 0);
	__u32 dest_tag = family | (f->flags & FLOW_DEST_TAGGED ? f->tag : 0);
	struct ipv6 h = {};

	ipv6_header(&h, p, f);
	if (f->next == NEXT_HOST)
		dest_tag = 0;
	overlay_write(h.saddr, mesh, flow_source_vpc(f), f->saddr, source_tag);
	overlay_write(h.daddr, mesh, flow_dest_vpc(f), f->daddr, dest_tag);
	if (rewrite_transport(skb, p, f, transport_at(p)))
		return -1;
	if (!p->wire6 && bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0))
		return -1;
	if (p->fragment && push_fragment_header(skb, p))
		return -1;
	if (p->about && f->reverse_view & KEY_IPV6 && finish_error6(skb, p, f, &h, p->l3 + sizeof(h)))
		return -1;
	return store_header(skb, p->l3, &h);
}

/*
 * → IPv6 as a workload has it, from the overlay or from either family: both addresses are of the workload's VPC, or the
 * source is the client's in the overlay.
 */
APART(to_ipv6, (struct __sk_buff *skb, const struct packet *p, const struct flow *f, __u32 mesh),
      p && f, (skb, p, f, mesh), -1)
{
	__u32 vpc = flow_dest_vpc(f);
	struct ipv6 h = {};

	ipv6_header(&h, p, f);
	if (shows_client(f))
		overlay_write(h.saddr, mesh, flow_source_vpc(f), f->saddr, f->tag);
	else
		overlay_write(h.saddr, mesh, vpc, f->saddr, 0);
	overlay_write(h.daddr, mesh, vpc, f->daddr, 0);
	if (rewrite_transport(skb, p, f, transport_at(p)))
		return -1;
	if (!p->wire6 && bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0))
		return -1;
	if (p->fragment && push_fragment_header(skb, p))
		return -1;
	if (p->about && f->reverse_view & KEY_IPV6 && finish_error6(skb, p, f, &h, p->l3 + sizeof(h)))
		return -1;
	return store_header(skb, p->l3, &h);
}

/* → IPv4, from an IPv6 header. What was IPv6 has no id: it is not to be fragmented. */
APART(to_ipv4, (struct __sk_buff *skb, const struct packet *p, const struct flow *f), p && f, (skb, p, f), -1)
{
	struct ipv4 h = {
		.version_ihl = 0x45,
		.tos = p->tos,
		.length = bpf_htons(p->length),
		.id = bpf_htons(p->fragment ? p->fresh : p->ipv6 ? 0 : p->id),
		.fragment = bpf_htons((p->ipv6 ? !p->fragment : p->df) ? 0x4000 | p->fragment : p->fragment),
		.ttl = p->ttl,
		.protocol = p->protocol,
		.saddr = f->saddr,
		.daddr = f->daddr,
	};
	__u32 word[5];

	__builtin_memcpy(word, &h, sizeof(word));
	h.check = ~fold((__u64)word[0] + word[1] + word[2] + word[3] + word[4]);
	if (bpf_skb_change_proto(skb, bpf_htons(ETH_P_IP), 0) || store_header(skb, p->l3, &h))
		return -1;
	return rewrite_transport(skb, p, f, p->l3 + sizeof(h));
}

static __always_inline int write_ethernet(struct __sk_buff *skb, const __u8 *dest, const __u8 *source, __u16 type)
{
	struct ethernet h = { .type = bpf_htons(type) };

	__builtin_memcpy(h.dest, dest, 6);
	__builtin_memcpy(h.source, source, 6);
	return store_header(skb, 0, &h);
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
	struct option_walk *w = &ctx->s->walk;
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

/* What a full segment holds where the tunnel has this MTU: the links' are 28 less. */
static __always_inline __u16 link_mss(__u16 tunnel_mtu, bool ipv6)
{
	return tunnel_mtu - 28 - sizeof(struct tcp) - (ipv6 ? sizeof(struct ipv6) : sizeof(struct ipv4));
}

/* Lowers the MSS option; the TCP header is at the offset. */
APART(clamp_option, (struct __sk_buff *skb, struct scratch *s, __u32 at, __u16 limit), s, (skb, s, at, limit), -1)
{
	struct packet *p = &s->packet;
	struct mss_ctx ctx = { .s = s };
	__u32 n = p->header - 20;
	__s64 diff;

	n &= 63; /* or the verifier cannot tell; and the compiler must not join the bounds into one comparison */
	barrier_var(n);
	if (n < 4)
		return 0;
	barrier_var(n);
	if (n > sizeof(s->before))
		return 0;
	__builtin_memset(s->before, 0, sizeof(s->before));
	if (bpf_skb_load_bytes(skb, at + 20, s->before, n))
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
	if (diff < 0 || bpf_l4_csum_replace(skb, at + 16, 0, diff, 0))
		return -1;
	return bpf_skb_store_bytes(skb, at + 20, s->after, n, 0);
}

/* Of a SYN or SYN-ACK. */
static __always_inline int clamp_mss(struct __sk_buff *skb, struct scratch *s, __u32 at, __u16 limit)
{
	if (s->packet.protocol != IPPROTO_TCP || !(s->packet.tcp_flags & TCP_SYN))
		return 0;
	return clamp_option(skb, s, at, limit);
}

#endif
