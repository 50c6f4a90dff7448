/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * IPv6 extension headers of workloads: taken out on the way in, as IPv4's options are, where whoever does not know what they
 * say has to pass over it (RFC 8200, 4.2). Decision 0012.
 */
#ifndef CULVERT_EXTENSION_H
#define CULVERT_EXTENSION_H

enum {
	EXTENSION_HEADERS = 6,
	EXTENSION_STEPS = EXTENSION_BYTES + EXTENSION_HEADERS,
};

struct extension_ctx {
	struct scratch *s;
};

static __always_inline bool is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS;
}

/* One header, or one option in it, a step; 1 ends the walk, with w->good where all was as it may be. */
static long extension_step(__u32 i, struct extension_ctx *ctx)
{
	struct extension_walk *w = &ctx->s->extension_walk;
	const __u8 *b = ctx->s->extension;
	__u32 at = w->at, end;

	if (at < w->until) {
		if (at >= EXTENSION_BYTES)
			return 1;
		if (!b[at]) { /* Pad1 */
			w->at = at + 1;
			return 0;
		}
		if (at + 1 >= EXTENSION_BYTES)
			return 1;
		end = at + 2 + b[at + 1];
		if (b[at] >> 6 || at + 2 > w->until || end > w->until)
			return 1;
		w->at = end;
		return 0;
	}
	w->good = !is_extension(w->next);
	if (w->good || at > EXTENSION_BYTES - 8)
		return 1;
	if ((w->next == IPPROTO_HOPOPTS && w->headers) || ++w->headers > EXTENSION_HEADERS)
		return 1;
	end = at + 8 + b[at + 1] * 8;
	if (end > w->end)
		return 1;
	if (w->next == IPPROTO_ROUTING && (b[at + 3] || !b[at + 2] || b[at + 2] == 2))
		return 1;
	w->until = end;
	w->at = w->next == IPPROTO_ROUTING ? end : at + 2;
	w->next = b[at];
	return 0;
}

/* h is the packet's header; the packet is afterwards one that never had any of them, but for a Fragment header. */
APART(strip_extensions, (struct __sk_buff *skb, struct scratch *s, struct ipv6 *h),
      s && h, (skb, s, h), REASON_INTERNAL)
{
	struct extension_ctx ctx = { .s = s };
	struct packet *p = &s->packet;
	__u32 n = p->length - 20;

	if (n > EXTENSION_BYTES)
		n = EXTENSION_BYTES;
	n &= 2 * EXTENSION_BYTES - 1; /* as in clamp_mss */
	barrier_var(n);
	if (n < 8 || n > EXTENSION_BYTES)
		return REASON_IP_OPTIONS;
	__builtin_memset(s->extension, 0, sizeof(s->extension));
	if (bpf_skb_load_bytes(skb, p->l3 + sizeof(*h), s->extension, n))
		return REASON_MALFORMED;
	__builtin_memset(&s->extension_walk, 0, sizeof(s->extension_walk));
	s->extension_walk.end = n;
	s->extension_walk.next = p->protocol;
	bpf_loop(EXTENSION_STEPS, extension_step, &ctx, 0);
	if (!s->extension_walk.good)
		return REASON_IP_OPTIONS;
	n = s->extension_walk.at;
	p->protocol = s->extension_walk.next;
	p->length -= n;
	p->bytes -= n;
	h->next_header = p->protocol;
	h->payload = bpf_htons(p->length - 20);
	if (bpf_skb_adjust_room(skb, -(__s32)n, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO) ||
	    bpf_skb_store_bytes(skb, p->l3, h, sizeof(*h), 0))
		return REASON_INTERNAL;
	return REASON_NONE;
}

#endif
