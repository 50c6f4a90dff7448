/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * The header of the PROXY protocol, version 2, at the provider's node: decision 0016. It is a TCP segment of its own, made
 * out of the third packet of the handshake and of all that follow from the client until the target has acknowledged the
 * whole of it; from then on sequence numbers are shifted by its length. So nothing is inserted into a packet that may be
 * offloaded, and a target that speaks first hears of the client too.
 */
#ifndef CULVERT_PROXY_H
#define CULVERT_PROXY_H

enum {
	PROXY_IPV4 = 16 + 12 + 4,	/* bytes before the endpoint's id: fixed part, addresses, TLV */
	PROXY_IPV6 = 16 + 36 + 4,
	OPTION_END = 0,			/* of TCP, as are the others (IANA's registry) */
	OPTION_NOP = 1,
	OPTION_SACK = 5,
	OPTION_MPTCP = 30,
	OPTION_FASTOPEN = 34,
	OPTION_EXPERIMENT = 254,	/* Fast Open of old, with the magic number of RFC 7413 */
	FASTOPEN_MAGIC = 0xf989,
};

/* How long the header of a flow is. Its addresses are of the family in which the client speaks. */
static __always_inline __u8 proxy_length(const struct flow_key *opening, const struct grant *g)
{
	return (opening->view & KEY_IPV6 ? PROXY_IPV6 : PROXY_IPV4) + g->endpoint_len;
}

/* A new flow whose targets are told: both entries get what their direction needs. */
static __always_inline void proxy_draft(struct scratch *s, const struct grant *g)
{
	struct flow *e = &s->open, *o = &s->other;

	if (!(g->flags & GRANT_PROXY) || e->key.protocol != IPPROTO_TCP)
		return;
	e->proxy = proxy_length(&e->key, g);
	e->isn = s->packet.seq;
	o->proxy = e->proxy;
	o->isn = e->isn;
}

/* What a client closes before the target has the header does not reach it, and comes again. */
static __always_inline void proxy_hold(struct scratch *s)
{
	if (s->own.proxy && !s->own.proxy_done && key_view(&s->own.key) == VIEW_PROVIDER &&
	    !(s->packet.tcp_flags & (TCP_SYN | TCP_RST)))
		s->packet.tcp_flags &= ~TCP_FIN;
}

/* A sequence number of the target's side as the client has it. */
static __always_inline __u32 proxy_unshifted(const struct flow *f, __u32 seq)
{
	__u32 past = seq - (f->isn + 1);

	if (f->proxy_done)
		return seq - f->proxy;
	if ((__s32)past <= 0)
		return seq;
	return past < f->proxy ? f->isn + 1 : seq - f->proxy;
}

/* Options that would let data pass outside of what is counted here. */
static __always_inline bool proxy_forbids(const __u8 *options, __u32 at, __u8 kind, __u8 len)
{
	if (kind == OPTION_EXPERIMENT)
		return len >= 4 && at + 3 < 40 && (options[at + 2] << 8 | options[at + 3]) == FASTOPEN_MAGIC;
	return kind == OPTION_MPTCP || kind == OPTION_FASTOPEN;
}

/*
 * One byte of the options a step; 1 ends the walk. In a SYN it writes NOPs over what is forbidden, otherwise it
 * puts the edges of SACK blocks into the client's numbers.
 */
static long proxy_step(__u32 i, struct mss_ctx *ctx)
{
	struct scratch *s = ctx->s;
	struct proxy_walk *w = &s->proxy_walk;
	__u8 *o = s->after;
	__u32 edge, to;
	__u8 kind, len;

	if (i >= w->end || i >= 40)
		return 1;
	if (i == w->option) {
		kind = o[i];
		w->erase = 0;
		w->edge = 40;
		w->option = i + 1;
		if (kind == OPTION_NOP)
			return 0;
		if (kind == OPTION_END || i + 1 >= w->end || i + 1 >= 40)
			return 1;
		len = o[i + 1];
		if (len < 2 || i + len > w->end)
			return 1;
		w->option = i + len;
		if (w->syn)
			w->erase = proxy_forbids(o, i, kind, len);
		else if (kind == OPTION_SACK)
			w->edge = i + 2;
	}
	if (w->erase) {
		o[i] = OPTION_NOP;
		w->changed = 1;
	}
	if (i == w->edge && i + 4 <= w->option && i + 3 < 40) {
		edge = (__u32)o[i] << 24 | o[i + 1] << 16 | o[i + 2] << 8 | o[i + 3];
		to = proxy_unshifted(&s->own, edge);
		o[i] = to >> 24;
		o[i + 1] = to >> 16;
		o[i + 2] = to >> 8;
		o[i + 3] = to;
		w->changed |= to != edge;
		w->edge = i + 4;
	}
	return 0;
}

/* Changes the options of the TCP header at the offset. */
APART(proxy_options, (struct __sk_buff *skb, struct scratch *s, __u32 offset), s, (skb, s, offset), -1)
{
	struct packet *p = &s->packet;
	struct mss_ctx ctx = { .s = s };
	__u32 n = p->header - 20;
	__s64 diff;

	n &= 63; /* as in clamp_mss */
	barrier_var(n);
	if (n < 4)
		return 0;
	barrier_var(n);
	if (n > sizeof(s->before))
		return 0;
	__builtin_memset(s->before, 0, sizeof(s->before));
	if (bpf_skb_load_bytes(skb, offset + 20, s->before, n))
		return -1;
	__builtin_memcpy(s->after, s->before, sizeof(s->after));
	__builtin_memset(&s->proxy_walk, 0, sizeof(s->proxy_walk));
	s->proxy_walk.end = n;
	s->proxy_walk.edge = 40;
	s->proxy_walk.syn = !!(p->tcp_flags & TCP_SYN);
	bpf_loop(40, proxy_step, &ctx, 0);
	if (!s->proxy_walk.changed)
		return 0;
	diff = bpf_csum_diff((__u32 *)s->before, sizeof(s->before), (__u32 *)s->after, sizeof(s->after), 0);
	if (diff < 0 || bpf_l4_csum_replace(skb, offset + 16, 0, diff, 0))
		return -1;
	return bpf_skb_store_bytes(skb, offset + 20, s->after, n, 0);
}

/* Replaces a sequence number of the TCP header at the offset; at is where it stands there. */
static __always_inline int proxy_number(struct __sk_buff *skb, __u32 offset, __u32 at, __u32 from, __u32 to)
{
	from = bpf_htonl(from);
	to = bpf_htonl(to);
	if (bpf_l4_csum_replace(skb, offset + 16, from, to, 4))
		return -1;
	return bpf_skb_store_bytes(skb, offset + at, &to, sizeof(to), 0);
}

/* What follows the addresses in the header. */
static __always_inline void proxy_write_rest(__u8 *at, const struct flow *f, const struct grant *g)
{
	*(__u16 *)at = f->key.sport;
	*(__u16 *)(at + 2) = g->dialed_port;
	at[4] = 0xea; /* PP2_TYPE_AWS */
	at[6] = 1 + g->endpoint_len;
	at[7] = 0x01; /* PP2_SUBTYPE_AWS_VPCE_ID */
	__builtin_memcpy(at + 8, g->endpoint, sizeof(g->endpoint));
}

/* Writes the header to s->header. The length is that of the flow's entry, or the grant is another. */
static __always_inline bool proxy_write(struct scratch *s, __u32 mesh)
{
	static const __u8 signature[12] = "\r\n\r\n\0\r\nQUIT\n";
	const struct flow *f = &s->own;
	struct grant_key key = { .vpc = f->key.vpc, .tag = f->key.tag };
	const struct grant *g = bpf_map_lookup_elem(&grants, &key);
	__u8 *h = s->header;

	if (!g || g->connection != f->connection || f->proxy != proxy_length(&f->key, g))
		return false;
	__builtin_memset(h, 0, sizeof(s->header));
	__builtin_memcpy(h, signature, sizeof(signature));
	h[12] = 0x21; /* version 2, PROXY */
	h[15] = f->proxy - 16;
	if (f->key.view & KEY_IPV6) {
		h[13] = 0x21; /* TCP over IPv6 */
		overlay_write((__u32 *)(h + 16), mesh, f->key.vpc, f->key.saddr, 0);
		overlay_write((__u32 *)(h + 32), mesh, f->key.vpc, g->dialed_addr, 0);
		proxy_write_rest(h + 48, f, g);
	} else {
		h[13] = 0x11; /* TCP over IPv4 */
		*(__u32 *)(h + 16) = f->key.saddr;
		*(__u32 *)(h + 20) = g->dialed_addr;
		proxy_write_rest(h + 24, f, g);
	}
	return true;
}

/* Puts the first n bytes of s->header there. */
static __always_inline int proxy_store(struct __sk_buff *skb, const struct scratch *s, __u32 offset, __u32 n)
{
	n &= 127;
	barrier_var(n);
	if (n < PROXY_IPV4)
		return 0;
	barrier_var(n);
	if (n > sizeof(s->header))
		return -1;
	return bpf_skb_store_bytes(skb, offset, s->header, n, 0);
}

/*
 * Turns the packet into a segment with the first n bytes of s->header and nothing else. Its checksum is computed anew,
 * or prepared for the device that is to compute it.
 */
APART(proxy_segment, (struct __sk_buff *skb, struct scratch *s, __u32 seq, __u8 flags, __u32 n),
      s, (skb, s, seq, flags, n), -1)
{
	const struct packet *p = &s->packet;
	struct tcp *t = (struct tcp *)s->segment;
	__u32 offset = transport_at(p), header = p->header;
	__u32 pseudo[3] = { s->own.saddr, s->own.daddr, bpf_htonl(IPPROTO_TCP << 16 | (header + n)) };
	__u16 before = bpf_htons(p->length), length = bpf_htons(20 + header + n);
	__s64 sum;

	header &= 63; /* as in clamp_mss */
	barrier_var(header);
	if (header < sizeof(*t))
		return -1;
	barrier_var(header);
	if (header > sizeof(s->segment))
		return -1;
	__builtin_memset(s->segment, 0, sizeof(s->segment));
	if (bpf_skb_load_bytes(skb, offset, s->segment, header) || bpf_skb_change_tail(skb, offset + header + n, 0))
		return -1;
	t->seq = bpf_htonl(seq);
	t->flags = flags;
	t->urgent = 0;
	t->check = 0;
	sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), 0);
	if (sum < 0)
		return -1;
	if (checksum_partial(skb, offset + 16)) {
		t->check = fold(sum);
	} else {
		sum = bpf_csum_diff(NULL, 0, (__u32 *)s->segment, sizeof(s->segment), sum);
		if (sum < 0)
			return -1;
		if (n)
			sum = bpf_csum_diff(NULL, 0, (__u32 *)s->header, sizeof(s->header), sum);
		if (sum < 0)
			return -1;
		t->check = ~fold(sum);
	}
	if (bpf_skb_store_bytes(skb, offset, s->segment, header, 0))
		return -1;
	if (proxy_store(skb, s, offset + header, n))
		return -1;
	if (p->wire6) {
		length = bpf_htons(header + n);
		return bpf_skb_store_bytes(skb, p->l3 + 4, &length, sizeof(length), 0);
	}
	if (bpf_l3_csum_replace(skb, p->l3 + 10, before, length, 2))
		return -1;
	return bpf_skb_store_bytes(skb, p->l3 + 2, &length, sizeof(length), 0);
}

/*
 * From the client, the packet being the target's own already. A SYN leaves with neither data nor what is
 * forbidden: a target that takes data along with a SYN would take that for the header.
 */
APART(proxy_request, (struct __sk_buff *skb, struct scratch *s, __u32 mesh), s, (skb, s, mesh), REASON_INTERNAL)
{
	const struct flow *f = &s->own;
	struct packet *p = &s->packet;
	__u32 offset = transport_at(p);

	if (p->tcp_flags & TCP_SYN) {
		if (proxy_options(skb, s, offset))
			return REASON_INTERNAL;
		if (p->length <= 20 + p->header)
			return REASON_NONE;
		return proxy_segment(skb, s, p->seq, p->tcp_flags, 0) ? REASON_INTERNAL : REASON_NONE;
	}
	if (f->proxy_done)
		return proxy_number(skb, offset, 4, p->seq, p->seq + f->proxy) ? REASON_INTERNAL : REASON_NONE;
	if (p->tcp_flags & TCP_RST)
		return REASON_NONE;
	if (!proxy_write(s, mesh))
		return REASON_NO_GRANT;
	return proxy_segment(skb, s, f->isn + 1, (p->tcp_flags & TCP_ACK) | TCP_PSH, f->proxy) ? REASON_INTERNAL : REASON_NONE;
}

/* Both entries of the flow whose answering entry is s->own take over its state. */
APART(proxy_remember, (const struct flow *f), f, (f), 0)
{
	struct flow_key key = f->key;
	struct flow *live = bpf_map_lookup_elem(&flows, &key);

	if (live && live->id == f->id) {
		live->isn = f->isn;
		live->proxy_done = f->proxy_done;
	}
	reverse_key(f, &key);
	live = bpf_map_lookup_elem(&flows, &key);
	if (live && live->id == f->id) {
		live->isn = f->isn;
		live->proxy_done = f->proxy_done;
	}
	return 0;
}

/*
 * From the target, still its own packet. A SYN-ACK begins anew, for the SYN that it acknowledges. A later connection may have
 * the number of the one before: the client chooses it, and would write the header itself if that counted as told.
 */
APART(proxy_answer, (struct __sk_buff *skb, struct scratch *s), s, (skb, s), -1)
{
	struct flow *f = &s->own;
	struct packet *p = &s->packet;
	__u32 offset = transport_at(p), ack;

	if (p->tcp_flags & TCP_SYN) {
		if (p->tcp_flags & TCP_ACK && (f->proxy_done || p->ack != f->isn + 1)) {
			f->isn = p->ack - 1;
			f->proxy_done = 0;
			proxy_remember(f);
		}
		return proxy_options(skb, s, offset);
	}
	if (!(p->tcp_flags & TCP_ACK))
		return 0;
	ack = proxy_unshifted(f, p->ack);
	if (ack != p->ack && proxy_number(skb, offset, 8, p->ack, ack))
		return -1;
	if (proxy_options(skb, s, offset))
		return -1;
	if (!f->proxy_done && (__s32)(p->ack - (f->isn + 1 + f->proxy)) >= 0) {
		f->proxy_done = 1;
		proxy_remember(f);
	}
	p->ack = ack; /* for the receive half on this node */
	return 0;
}

#endif
