/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * IPv6 of workloads: what one may send from which address, and what changes where the two ends of a connection speak
 * different families. Decision 0011.
 */
#ifndef CULVERT_IPV6_H
#define CULVERT_IPV6_H

/* Is it the IPv6 form of an address of this VPC? Only that of number 0, family bit 0, canonical, is one. */
static __always_inline bool vpc_address(const __u32 *words, __u32 mesh, __u32 vpc, struct overlay *o)
{
	return overlay_read(words, mesh, o) && o->vpc == vpc && !o->tag;
}

/* Is it a client on its way to a service, as targets see one that are shown their clients? */
static __always_inline bool client_address(const __u32 *words, __u32 mesh, struct overlay *o)
{
	return overlay_read(words, mesh, o) && o->vpc && o->tag & ~TAG_IPV4;
}

/* What comes after the addresses of an IPv6 packet, and may be looked at here. */
static __always_inline int next_header(__u8 next)
{
	switch (next) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_ICMPV6:
		return REASON_NONE;
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
		return REASON_IP_OPTIONS;
	case IPPROTO_FRAGMENT:
		return REASON_FRAGMENT;
	}
	return REASON_PROTOCOL;
}

/*
 * Leaves of a workload's packet what has a transport header right behind the IPv6 header, h, which is kept true. What its
 * Fragment header says goes to p; a whole packet that has one (RFC 6946) is one without.
 */
static __always_inline int bare_ipv6(struct __sk_buff *skb, struct scratch *s, struct ipv6 *h)
{
	struct packet *p = &s->packet;
	int reason;

	if (is_extension(p->protocol)) {
		reason = strip_extensions(skb, s, h);
		if (reason)
			return reason;
	}
	if (p->protocol == IPPROTO_FRAGMENT) {
		if (read_fragment_header(skb, p))
			return REASON_MALFORMED;
		if (!p->fragment)
			p->bytes -= sizeof(struct ipv6_fragment);
		h->next_header = p->protocol;
		h->payload = bpf_htons(p->length - 20);
		if (pop_fragment_header(skb) || bpf_skb_store_bytes(skb, p->l3, h, sizeof(*h), 0))
			return REASON_INTERNAL;
	}
	return next_header(p->protocol);
}

/*
 * An IPv6 packet of a workload. Its own address is the IPv6 form of its ENI's; a link-local one, or none, is for
 * neighbour discovery alone, and multicast from there is the link's own noise (MLD, mDNS, DHCP).
 */
APART(parse_ipv6, (struct __sk_buff *skb, struct scratch *s, const struct config *config, const struct vpc_addr *where),
      s && config && where, (skb, s, config, where), REASON_INTERNAL)
{
	struct packet *p = &s->packet;
	__u32 mesh = config->mesh, vpc = where->vpc, own = where->addr, first, payload;
	struct overlay from, to;
	struct ipv6 h = {};
	int reason;
	bool mine;

	p->ipv6 = 1;
	p->wire6 = 1;
	if (load_header(skb, p->l3, &h))
		return REASON_MALFORMED;
	first = bpf_ntohl(h.version_class_label);
	payload = bpf_ntohs(h.payload);
	if (first >> 28 != 6 || payload > 65515 || p->l3 + sizeof(h) + payload > skb->len)
		return REASON_MALFORMED;
	p->length = payload + 20;
	p->protocol = h.next_header;
	p->tos = first >> 20;
	p->ttl = h.hop_limit;
	p->label = first & 0xfffff;
	mine = vpc_address(h.saddr, mesh, vpc, &from) && from.addr == own;
	if (mine)
		p->saddr = own;
	if (h.next_header == IPPROTO_ICMPV6) {
		reason = discovery(skb, s, &h, config, where);
		if (reason)
			return reason;
	}
	if (!mine)
		return multicast(h.daddr) && (unspecified(h.saddr) || link_local(h.saddr)) ? REASON_ANSWERED
											   : REASON_SPOOFED_ADDRESS;
	reason = bare_ipv6(skb, s, &h);
	if (reason)
		return reason;
	if (client_address(h.daddr, mesh, &to)) {
		p->view = VIEW_CLIENT;
		p->dest_vpc = to.vpc;
		p->tag = to.tag;
	} else if (!vpc_address(h.daddr, mesh, vpc, &to)) {
		return REASON_NO_DESTINATION;
	}
	p->daddr = to.addr;
	reason = check_fragment(skb, p);
	if (reason)
		return reason;
	return parse_transport(skb, p, p->l3 + sizeof(h));
}

static __always_inline bool changes_family(const struct packet *p, const struct flow *f)
{
	return !p->ipv6 != !(f->reverse_view & KEY_IPV6);
}

/* IPv4 has UDP without checksum, IPv6 does not. */
static __always_inline bool lacks_checksum(const struct packet *p, const struct flow *f)
{
	return p->protocol == IPPROTO_UDP && !p->later && !p->ipv6 && f->reverse_view & KEY_IPV6 && !(p->seq & 0xffff);
}

/* An offloaded packet is several datagrams, and the sum would cover what UDP's length leaves out. */
static __always_inline bool checksum_possible(const struct __sk_buff *skb, const struct packet *p)
{
	return !skb->gso_size && !p->fragment && p->seq >> 16 == (__u32)p->length - 20;
}

struct sum_ctx {
	struct __sk_buff *skb;
	struct scratch *s;
};

/* One chunk a step; 1 ends the walk. Its place stands in the map, see mss_step(). */
static long sum_step(__u32 i, struct sum_ctx *ctx)
{
	struct scratch *s = ctx->s;
	__u32 at = s->total.at, n = s->total.end - at;
	__s64 sum;

	if (at >= s->total.end)
		return 1;
	if (n > SUM_CHUNK)
		n = SUM_CHUNK;
	if (n < SUM_CHUNK)
		__builtin_memset(s->chunk, 0, sizeof(s->chunk));
	n = ((n - 1) & (SUM_CHUNK - 1)) + 1; /* as it is; or the verifier cannot tell that it is not 0 */
	barrier_var(n);
	if (bpf_skb_load_bytes(ctx->skb, at, s->chunk, n))
		goto failed;
	sum = bpf_csum_diff(NULL, 0, (__u32 *)s->chunk, sizeof(s->chunk), 0);
	if (sum < 0)
		goto failed;
	s->total.sum += (__u32)sum;
	s->total.at = at + n;
	return 0;
failed:
	s->total.end = 0;
	return 1;
}

/* Computes the checksum of a datagram that has none; the offset is UDP's. */
APART(give_checksum, (struct __sk_buff *skb, struct scratch *s, __u32 offset), s, (skb, s, offset), -1)
{
	const struct packet *p = &s->packet;
	struct sum_ctx ctx = { .skb = skb, .s = s };
	__u32 length = p->length - 20;
	__u32 pseudo[3] = { p->wire.saddr, p->wire.daddr, bpf_htonl(IPPROTO_UDP << 16 | (length & 0xffff)) };
	__s64 sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), 0);
	__u16 check;

	if (sum < 0)
		return -1;
	s->total.at = offset;
	s->total.end = offset + length;
	s->total.sum = sum;
	bpf_loop(SUM_CHUNKS, sum_step, &ctx, 0);
	if (!s->total.end || s->total.at != s->total.end)
		return -1;
	check = ~fold(s->total.sum);
	if (!check)
		check = 0xffff;
	return bpf_skb_store_bytes(skb, offset + 6, &check, sizeof(check), 0);
}

#endif
