/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * From bytes to struct packet. Headers are copied out before anything is changed: packet pointers die with every change,
 * and offloaded packets need not be linear.
 */
#ifndef CULVERT_PARSE_H
#define CULVERT_PARSE_H

/*
 * Copies a header out: from the linear part, which mostly has it, or by the helper, which takes longer. Evaluates to 0, or
 * not 0 where the frame ends before. The offset's bound is for the verifier.
 */
#define load_header(skb, offset, to)										\
	({													\
		__u64 load_at = (offset);									\
		const void *load_data = (const void *)(long)(skb)->data;					\
		const void *load_end = (const void *)(long)(skb)->data_end;					\
		int load_failed = 0;										\
														\
		if (load_at < 256 && load_data + load_at + sizeof(*(to)) <= load_end)				\
			*(to) = *(const typeof(*(to)) *)(load_data + load_at);					\
		else												\
			load_failed = bpf_skb_load_bytes(skb, load_at, to, sizeof(*(to)));			\
		load_failed;											\
	})

/*
 * Writes a header likewise. What writes in place gets a prologue from the verifier that makes the linear part writable, once for
 * all of them.
 */
#define store_header(skb, offset, from)										\
	({													\
		__u64 store_at = (offset);									\
		void *store_data = (void *)(long)(skb)->data;							\
		void *store_end = (void *)(long)(skb)->data_end;						\
		int store_failed = 0;										\
														\
		if (store_at < 256 && store_data + store_at + sizeof(*(from)) <= store_end)			\
			*(typeof(*(from)) *)(store_data + store_at) = *(from);					\
		else												\
			store_failed = bpf_skb_store_bytes(skb, store_at, from, sizeof(*(from)), 0);		\
		store_failed;											\
	})

static __always_inline void measure(const struct __sk_buff *skb, struct packet *p, __u32 l2, __u32 overhead)
{
	p->l3 = l2;
	p->bytes = skb->len > l2 + overhead ? skb->len - l2 - overhead : 0;
}

enum { PROBE_PROTOCOL = 253 };	/* RFC 3692; agent/wire/tunnel's probeProtocol */

static __always_inline bool protocol_known(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || is_icmp(protocol);
}

/*
 * An offloaded packet counts as the packets that it will be on the wire. A workload's packet socket may ask for segments of one
 * byte: a single packet would keep the tunnel busy for seconds.
 */
static __always_inline int expand(const struct __sk_buff *skb, struct packet *p, __u32 offset)
{
	__u32 size = skb->gso_size;
	__u32 payload = p->length - 20 - p->header;
	__u32 segments;

	if (!size)
		return REASON_NONE;
	if (is_icmp(p->protocol) || offset - 20 + p->length != skb->len)
		return REASON_MALFORMED;
	if (payload > size) {
		segments = (payload + size - 1) / size;
		if (segments > LIMIT_SEGMENTS)
			return REASON_MALFORMED;
		p->packets = segments;
		p->bytes += (segments - 1) * ((p->ipv6 ? 40 : 20) + p->header);
	}
	return REASON_NONE;
}

/* The form of a fragment by itself. RFC 791; what has no byte, or would end beyond the longest packet, is an attack. */
static __always_inline int check_fragment(const struct __sk_buff *skb, struct packet *p)
{
	__u32 payload = p->length - 20, at = (p->fragment & FRAGMENT_OFFSET) * 8;

	if (!p->fragment)
		return REASON_NONE;
	if (skb->gso_size)
		return REASON_MALFORMED;
	if (!payload || (p->fragment & FRAGMENT_MORE && payload % 8) || at + payload > 65515)
		return REASON_FRAGMENT;
	p->later = !!at;
	return REASON_NONE;
}

static __always_inline bool icmp_known(__u8 protocol, __u8 type)
{
	return protocol == IPPROTO_ICMP ? type == ICMP_ECHO || type == ICMP_ECHO_REPLY
					: type == ICMPV6_ECHO || type == ICMPV6_ECHO_REPLY;
}

/* Layer 4 at the offset; p->length is checked to lie within the frame. A first fragment has to hold the whole header. */
APART(parse_transport, (struct __sk_buff *skb, struct packet *p, __u32 offset), p, (skb, p, offset), REASON_INTERNAL)
{
	int cut = p->fragment ? REASON_FRAGMENT : REASON_MALFORMED;
	__u32 len = p->length - 20;
	struct tcp t = {};
	struct udp u = {};
	struct icmp i = {};

	if (p->later)
		return REASON_NONE;
	if (is_icmp(p->protocol)) {
		if (len < sizeof(i) || load_header(skb, offset, &i))
			return cut;
		if (is_icmp_error(&i, p->ipv6)) {
			p->icmp_type = i.type;
			p->icmp_code = i.code;
			return p->ipv6 ? parse_error6(skb, p, offset) : parse_error(skb, p, offset);
		}
		if (!icmp_known(p->protocol, i.type) || i.code)
			return REASON_PROTOCOL;
		p->icmp_type = i.type;
		p->sport = i.id;
		p->header = sizeof(i);
		return expand(skb, p, offset);
	}
	if (p->protocol == IPPROTO_UDP) {
		p->header = 8;
		if (len < sizeof(u) || load_header(skb, offset, &u))
			return cut;
		t.source = u.source;
		t.dest = u.dest;
		p->seq = (__u32)bpf_ntohs(u.length) << 16 | bpf_ntohs(u.check);
	} else {
		if (len < sizeof(t) || load_header(skb, offset, &t))
			return cut;
		p->header = (t.offset >> 4) * 4;
		if (p->header < sizeof(t))
			return REASON_MALFORMED;
		if (p->header > len)
			return cut;
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
static __always_inline int parse_ipv4(struct __sk_buff *skb, struct scratch *s, __u32 source)
{
	struct packet *p = &s->packet;
	struct ipv4 h = {};
	__u32 ihl;
	int reason;

	if (load_header(skb, p->l3, &h))
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
	p->fragment = bpf_ntohs(h.fragment) & (FRAGMENT_MORE | FRAGMENT_OFFSET);
	if (h.saddr != source)
		return REASON_SPOOFED_ADDRESS;
	if (ihl > sizeof(h)) {
		reason = strip_options(skb, s, &h);
		if (reason)
			return reason;
	}
	reason = check_fragment(skb, p);
	if (reason)
		return reason;
	if (!protocol_known(h.protocol) || h.protocol == IPPROTO_ICMPV6)
		return REASON_PROTOCOL;
	return parse_transport(skb, p, p->l3 + sizeof(h));
}

/* The Fragment header behind an IPv6 header; without one of the two bits that make a fragment it is a whole packet. */
static __always_inline int read_fragment_header(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6_fragment h = {};
	__u32 offset;

	if (p->length < 20 + sizeof(h) || bpf_skb_load_bytes(skb, p->l3 + sizeof(struct ipv6), &h, sizeof(h)))
		return -1;
	offset = bpf_ntohs(h.offset);
	p->fragment = offset >> 3 | (offset & 1 ? FRAGMENT_MORE : 0);
	p->id = bpf_ntohl(h.id);
	p->protocol = h.next_header;
	p->length -= sizeof(h);
	return 0;
}

/* Takes the Fragment header out, so that layer 4 stands where it does in a whole packet. */
static __always_inline int pop_fragment_header(struct __sk_buff *skb)
{
	return bpf_skb_adjust_room(skb, -(__s32)sizeof(struct ipv6_fragment), BPF_ADJ_ROOM_NET, 0);
}

/* The overlay's header; of IPv4 packets, df and id are in the flow label. The addresses' places in the mesh go to from and to. */
static __always_inline int parse_overlay(struct __sk_buff *skb, struct packet *p, __u32 mesh, struct overlay *from,
					 struct overlay *to)
{
	struct ipv6 h = {};
	__u32 first, payload;

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
	p->df = first >> 16 & 1;
	p->id = first & 0xffff;
	p->label = first & 0xfffff;
	p->wire6 = 1;
	if (h.next_header == IPPROTO_FRAGMENT && (read_fragment_header(skb, p) || !p->fragment))
		return REASON_MALFORMED;
	if (!protocol_known(p->protocol))
		return REASON_PROTOCOL;
	if (!overlay_read(h.saddr, mesh, from) || !overlay_read(h.daddr, mesh, to))
		return REASON_BAD_OVERLAY;
	p->source_vpc = from->vpc;
	p->dest_vpc = to->vpc;
	p->saddr = from->addr;
	p->daddr = to->addr;
	return REASON_NONE;
}

/* An overlay packet's family is known by its addresses: it counts as the workload has it, and its ICMP is its own. */
static __always_inline int overlay_family(struct packet *p, bool ipv6)
{
	p->ipv6 = ipv6;
	if (ipv6)
		p->bytes += 20;
	return p->protocol == (ipv6 ? IPPROTO_ICMP : IPPROTO_ICMPV6) ? REASON_PROTOCOL : REASON_NONE;
}

/* Fills the flow key from the packet. */
static __always_inline void make_key(struct scratch *s, __u32 vpc)
{
	struct packet *p = &s->packet;

	s->key.vpc = vpc;
	s->key.saddr = p->saddr;
	s->key.daddr = p->daddr;
	s->key.sport = p->sport;
	s->key.dport = p->dport;
	s->key.tag = p->tag;
	s->key.view = p->view | (p->ipv6 ? KEY_IPV6 : 0);
	s->key.protocol = p->about ? p->about : p->protocol;
	if (p->hook != HOOK_LOCAL)
		p->wire = (struct tuple){ p->saddr, p->daddr, p->sport, p->dport };
}

/* Packets that are part of a flow which others have opened. */
static __always_inline bool follows(const struct packet *p)
{
	return p->later || p->about;
}

/* A packet of a kind that may open a flow. */
static __always_inline bool opens(const struct packet *p)
{
	if (follows(p))
		return false;
	if (p->protocol == IPPROTO_TCP)
		return (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST)) == TCP_SYN;
	if (p->protocol == IPPROTO_ICMP)
		return p->icmp_type == ICMP_ECHO;
	if (p->protocol == IPPROTO_ICMPV6)
		return p->icmp_type == ICMPV6_ECHO;
	return true;
}

#endif
