/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* IPv4 options: taken out on the way in, but for those that ask for a route. Decision 0012. */
#ifndef CULVERT_OPTIONS_H
#define CULVERT_OPTIONS_H

enum {
	IP_OPTION_END = 0,
	IP_OPTION_NOP = 1,
	IP_OPTION_LOOSE_ROUTE = 131,
	IP_OPTION_STRICT_ROUTE = 137,
};

struct options_ctx {
	struct scratch *s;
};

/* One option a step; 1 ends the walk. changed: this packet must not pass. */
static long option_step(__u32 i, struct options_ctx *ctx)
{
	struct option_walk *w = &ctx->s->walk;
	const __u8 *options = ctx->s->before;
	__u32 at = w->at;
	__u8 kind, len;

	if (at >= w->end || at >= 40)
		return 1;
	kind = options[at];
	if (kind == IP_OPTION_END)
		return 1;
	if (kind == IP_OPTION_NOP) {
		w->at = at + 1;
		return 0;
	}
	w->changed = 1;
	if (kind == IP_OPTION_LOOSE_ROUTE || kind == IP_OPTION_STRICT_ROUTE || at + 1 >= w->end || at + 1 >= 40)
		return 1;
	len = options[at + 1];
	if (len < 2 || at + len > w->end)
		return 1;
	w->changed = 0;
	w->at = at + len;
	return 0;
}

/* h is the packet's header; the packet is afterwards one that never had options. */
APART(strip_options, (struct __sk_buff *skb, struct scratch *s, struct ipv4 *h), s && h, (skb, s, h), REASON_INTERNAL)
{
	struct options_ctx ctx = { .s = s };
	struct packet *p = &s->packet;
	__u32 n = (h->version_ihl & 0xf) * 4 - sizeof(*h);
	__s64 sum;

	n &= 63; /* as in clamp_mss */
	barrier_var(n);
	if (n < 4)
		return REASON_MALFORMED;
	barrier_var(n);
	if (n > sizeof(s->before))
		return REASON_MALFORMED;
	if (bpf_skb_load_bytes(skb, p->l3 + sizeof(*h), s->before, n))
		return REASON_MALFORMED;
	s->walk.at = 0;
	s->walk.end = n;
	s->walk.changed = 0;
	bpf_loop(40, option_step, &ctx, 0);
	if (s->walk.changed)
		return REASON_IP_OPTIONS;
	p->length -= n;
	p->bytes -= n;
	h->version_ihl = 0x45;
	h->length = bpf_htons(p->length);
	h->check = 0;
	sum = bpf_csum_diff(NULL, 0, (__u32 *)h, sizeof(*h), 0);
	if (sum < 0)
		return REASON_INTERNAL;
	h->check = ~fold(sum);
	if (bpf_skb_adjust_room(skb, -(__s32)n, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO) ||
	    bpf_skb_store_bytes(skb, p->l3, h, sizeof(*h), 0))
		return REASON_INTERNAL;
	return REASON_NONE;
}

#endif
