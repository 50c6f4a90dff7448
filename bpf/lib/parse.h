/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * From bytes to struct packet. Bytes are copied by helpers, never read through packet pointers: those die with every
 * change of the packet, and offloaded packets need not be linear.
 */
#ifndef CULVERT_PARSE_H
#define CULVERT_PARSE_H

static __always_inline void measure(const struct __sk_buff *skb, struct packet *p, __u32 l2, __u32 overhead)
{
	p->l3 = l2;
	p->bytes = skb->len > l2 + overhead ? skb->len - l2 - overhead : 0;
}

static __always_inline bool protocol_known(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_ICMP;
}

/* An offloaded packet counts as the packets that it will be on the wire. */
static __always_inline int expand(const struct __sk_buff *skb, struct packet *p, __u32 offset)
{
	__u32 size = skb->gso_size;
	__u32 payload = p->length - 20 - p->header;
	__u32 segments;

	if (!size)
		return REASON_NONE;
	if (p->protocol == IPPROTO_ICMP || offset - 20 + p->length != skb->len)
		return REASON_MALFORMED;
	if (payload > size) {
		segments = (payload + size - 1) / size;
		p->packets = segments;
		p->bytes += (segments - 1) * (20 + p->header);
	}
	return REASON_NONE;
}

/* Layer 4 at the offset; p->length is checked to lie within the frame. */
static __noinline int parse_transport(struct __sk_buff *skb, struct packet *p, __u32 offset)
{
	__u32 len = p->length - 20;
	struct tcp t = {};
	struct icmp i = {};

	if (p->protocol == IPPROTO_ICMP) {
		if (len < sizeof(i) || bpf_skb_load_bytes(skb, offset, &i, sizeof(i)))
			return REASON_MALFORMED;
		if ((i.type != ICMP_ECHO && i.type != ICMP_ECHO_REPLY) || i.code)
			return REASON_PROTOCOL;
		p->icmp_type = i.type;
		p->sport = i.id;
		p->header = sizeof(i);
		return expand(skb, p, offset);
	}
	if (p->protocol == IPPROTO_UDP) {
		p->header = 8;
		if (len < 8 || bpf_skb_load_bytes(skb, offset, &t, 8))
			return REASON_MALFORMED;
	} else {
		if (len < sizeof(t) || bpf_skb_load_bytes(skb, offset, &t, sizeof(t)))
			return REASON_MALFORMED;
		p->header = (t.offset >> 4) * 4;
		if (p->header < sizeof(t) || p->header > len)
			return REASON_MALFORMED;
		p->tcp_flags = t.flags;
		p->seq = bpf_ntohl(t.seq);
		p->ack = bpf_ntohl(t.ack);
	}
	p->sport = t.source;
	p->dport = t.dest;
	if (!t.source || !t.dest)
		return REASON_MALFORMED;
	return expand(skb, p, offset);
}

/* An IPv4 packet that must come from the source. */
static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *p, __u32 source)
{
	struct ipv4 h = {};
	__u32 ihl;

	if (bpf_skb_load_bytes(skb, p->l3, &h, sizeof(h)))
		return REASON_MALFORMED;
	ihl = (h.version_ihl & 0xf) * 4;
	p->length = bpf_ntohs(h.length);
	if (h.version_ihl >> 4 != 4 || ihl < sizeof(h) || p->length < ihl || p->l3 + p->length > skb->len)
		return REASON_MALFORMED;
	p->saddr = h.saddr;
	p->daddr = h.daddr;
	p->protocol = h.protocol;
	p->tos = h.tos;
	p->ttl = h.ttl;
	p->id = bpf_ntohs(h.id);
	p->df = !!(h.fragment & bpf_htons(0x4000));
	if (ihl > sizeof(h))
		return REASON_IP_OPTIONS;
	if (h.saddr != source)
		return REASON_SPOOFED_ADDRESS;
	if (h.fragment & bpf_htons(0x3fff))
		return REASON_FRAGMENT;
	if (!protocol_known(h.protocol))
		return REASON_PROTOCOL;
	return parse_transport(skb, p, p->l3 + sizeof(h));
}

/* The overlay's IPv6 header as the IPv4 header it becomes. The addresses' places in the mesh go to from and to. */
static __always_inline int parse_overlay(struct __sk_buff *skb, struct packet *p, __u32 mesh, struct overlay *from,
					 struct overlay *to)
{
	struct ipv6 h = {};
	__u32 first, payload;

	if (bpf_skb_load_bytes(skb, p->l3, &h, sizeof(h)))
		return REASON_MALFORMED;
	first = bpf_ntohl(h.version_class_label);
	payload = bpf_ntohs(h.payload);
	if (first >> 28 != 6 || payload > 65515 || p->l3 + sizeof(h) + payload > skb->len)
		return REASON_MALFORMED;
	p->length = payload + 20;
	p->protocol = h.next_header;
	p->tos = first >> 20;
	p->ttl = h.hop_limit;
	p->df = first >> 16 & 1;
	p->id = first;
	if (!protocol_known(h.next_header))
		return REASON_PROTOCOL;
	if (!overlay_read(h.saddr, mesh, from) || !overlay_read(h.daddr, mesh, to))
		return REASON_BAD_OVERLAY;
	p->source_vpc = from->vpc;
	p->dest_vpc = to->vpc;
	p->saddr = from->addr;
	p->daddr = to->addr;
	return REASON_NONE;
}

/* Fills the flow key from the packet. */
static __always_inline void make_key(struct scratch *s, __u32 vpc)
{
	const struct packet *p = &s->packet;

	s->key.vpc = vpc;
	s->key.saddr = p->saddr;
	s->key.daddr = p->daddr;
	s->key.sport = p->sport;
	s->key.dport = p->dport;
	s->key.tag = p->tag;
	s->key.view = p->view;
	s->key.protocol = p->protocol;
}

/* A packet of a kind that may open a flow. */
static __always_inline bool opens(const struct packet *p)
{
	if (p->protocol == IPPROTO_TCP)
		return (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST)) == TCP_SYN;
	if (p->protocol == IPPROTO_ICMP)
		return p->icmp_type == ICMP_ECHO;
	return true;
}

#endif
