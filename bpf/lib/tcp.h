/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What a TCP connection is like, seen in passing: how long its handshake took, how long what its opener sends is on the way until
 * it is acknowledged, and how much was sent again. Decision 0030.
 */
#ifndef CULVERT_TCP_H
#define CULVERT_TCP_H

enum {
	TIME_AGAIN = 1 << 14,	/* ticks from one segment that is timed to the next: each takes a look at the other entry */
	TIMED_MOST = 1 << 28,	/* ticks, 275 s: eight times as much fit into rtt */
};

/* The lowest 32 bits of the boot time in ticks, but never 0. */
static __always_inline __u32 tick_now(const struct packet *p)
{
	__u32 tick = (rate_clock_stands ? rate_clock_ns : p->now) >> TICK_SHIFT;

	return tick ? tick : 1;
}

static __always_inline __u64 timing(__u32 seq, __u32 tick)
{
	return (__u64)seq << 32 | tick;
}

static __always_inline __u32 segment_payload(const struct packet *p)
{
	return p->length - 20 - p->header;
}

/* The sequence number behind what the packet sends. */
static __always_inline __u32 segment_end(const struct packet *p)
{
	return p->seq + segment_payload(p) + !!(p->tcp_flags & TCP_SYN) + !!(p->tcp_flags & TCP_FIN);
}

/* The live entry of the other direction of s->own. */
static __always_inline struct flow *live_pair(struct scratch *s)
{
	struct flow_key key;
	struct flow *pair;

	reverse_key(&s->own, &key);
	pair = bpf_map_lookup_elem(&flows, &key);
	return pair && pair->id == s->own.id ? pair : NULL;
}

/* A new flow: its SYN is timed. */
static __always_inline void tcp_begin(struct scratch *s)
{
	const struct packet *p = &s->packet;
	__u64 timed;

	if (p->protocol != IPPROTO_TCP)
		return;
	timed = timing(p->seq + 1, tick_now(p));
	s->open.next_seq = segment_end(p);
	s->open.seq_known = 1;
	s->open.timed = timed;
	s->other.timed = timed;
}

/* The opener acknowledges for the first time: what, if not the other's SYN, would be no handshake. */
static __always_inline void tcp_handshake(struct scratch *s, struct flow *live)
{
	const struct flow *pair = live_pair(s);
	__u32 took = tick_now(&s->packet) - (__u32)s->own.timed;

	if (pair && pair->tcp_flags & TCP_SYN && s->own.seq_known && !s->own.handshake)
		live->handshake = took ? took : 1;
}

/* An answer: if it acknowledges what is timed, that is a sample. RFC 6298, 2: a weight of one in eight. */
static __always_inline void tcp_sample(struct scratch *s, struct flow *live)
{
	const struct packet *p = &s->packet;
	__u32 seq = s->own.timed >> 32, ack = p->ack, took, rtt = s->own.rtt;

	if (s->own.proxy && !(p->tcp_flags & TCP_SYN))
		ack = proxy_unshifted(&s->own, ack);
	if ((__s32)(ack - seq) < 0 || __sync_val_compare_and_swap(&live->timed, s->own.timed, 0) != s->own.timed)
		return;
	took = tick_now(p) - (__u32)s->own.timed;
	if (took > TIMED_MOST)
		took = TIMED_MOST;
	rtt = rtt ? rtt - rtt / 8 + took : took * 8;
	live->rtt = rtt ? rtt : 1;
}

/* Times what the opener sends, up to a sequence number. What is under way already goes on to be timed, but for a new SYN. */
static __always_inline void tcp_time(struct scratch *s, struct flow *live, __u32 seq, bool anew)
{
	__u64 timed = timing(seq, tick_now(&s->packet));
	struct flow *pair = live_pair(s);

	live->timed = timed;
	if (pair && (anew || !pair->timed))
		pair->timed = timed;
}

/* So many packets have bytes that were sent before. Nobody knows which of them will be acknowledged (Karn's rule). */
static __always_inline void tcp_again(struct scratch *s, struct flow *live, __u32 old, __u32 segment)
{
	__u32 payload = segment_payload(&s->packet), packets = 1;
	struct flow *pair;

	if (segment && s->packet.packets > 1)
		packets = ((old < payload ? old : payload) + segment - 1) / segment;
	__sync_fetch_and_add(&live->retransmits, packets);
	if (!(s->own.flags & FLOW_OPENING))
		return;
	pair = live_pair(s);
	if (pair)
		pair->timed = 0;
}

/*
 * Looks at a packet that goes on by s->own; segment is the payload of each of an offloaded packet's. A RST says nothing, nor does a
 * fragment, and an acknowledgement sends nothing. Who reorders packets makes them look as if they were sent again.
 */
APART(tcp_measure, (struct scratch *s, struct flow *live, __u32 segment), s && live, (s, live, segment), 0)
{
	const struct packet *p = &s->packet;
	bool opening = s->own.flags & FLOW_OPENING, syn = p->tcp_flags & TCP_SYN;
	__u32 end = segment_end(p), old = s->own.next_seq - p->seq;

	if (p->fragment || p->tcp_flags & TCP_RST)
		return 0;
	if (p->tcp_flags & TCP_ACK) {
		if (!opening && s->own.timed)
			tcp_sample(s, live);
		else if (opening && !syn && !(s->own.tcp_flags & TCP_ACK))
			tcp_handshake(s, live);
	}
	if (end == p->seq)
		return 0;
	if (!s->own.seq_known || (syn && end != s->own.next_seq)) { /* the first one, or another connection's */
		live->next_seq = end;
		live->seq_known = 1;
		if (opening && syn)
			tcp_time(s, live, p->seq + 1, true);
		return 0;
	}
	if ((__s32)old > 0)
		tcp_again(s, live, old, segment);
	if ((__s32)(end - s->own.next_seq) <= 0)
		return 0;
	live->next_seq = end;
	if (opening && (__s32)old <= 0 && tick_now(p) - (__u32)s->own.timed >= TIME_AGAIN)
		tcp_time(s, live, end, false);
	return 0;
}

#endif
