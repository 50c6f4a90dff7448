//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Run by the agent through BPF_PROG_TEST_RUN, attached nowhere. An update of an entry from user space would replace it
 * and lose what packets add meanwhile, and a deletion might hit the next flow of that key; here it is done in place.
 * Packets interrupt a test run: the per-CPU scratch is theirs.
 */

struct mark_run {
	struct __sk_buff *skb;
	__u32 done;
	__u32 pad;
};

/*
 * A packet between the agent's look and this one keeps the flow alive. One that is in flight on another CPU right now is
 * counted but does not: it might as well have come a moment later.
 */
static long mark_step(__u32 i, struct mark_run *m)
{
	struct flow_mark mark;
	struct flow *live, *pair;
	struct flow_key reverse;

	if (bpf_skb_load_bytes(m->skb, MARK_HEADER + i * sizeof(mark), &mark, sizeof(mark)))
		return 1;
	live = bpf_map_lookup_elem(&flows, &mark.key);
	if (!live || live->id != mark.id)
		return 0;
	reverse_key(live, &reverse);
	pair = bpf_map_lookup_elem(&flows, &reverse);
	if (pair && pair->id != mark.id)
		pair = NULL;
	if (mark.flag == FLOW_EXPIRED && (live->last_ns > mark.last_ns || (pair && pair->last_ns > mark.last_ns)))
		return 0;
	live->flags |= mark.flag;
	if (pair)
		pair->flags |= mark.flag;
	m->done++;
	return 0;
}

/* Returns how many flows were marked. */
SEC("tc")
int mark_flows(struct __sk_buff *skb)
{
	struct mark_run m = { .skb = skb };

	bpf_loop(MARK_MAX, mark_step, &m, 0);
	return m.done;
}

static long remove_step(__u32 i, struct mark_run *m)
{
	__u32 at = MARK_HEADER + i * sizeof(struct flow_removal);
	struct flow_removal r;
	struct flow *live;

	if (bpf_skb_load_bytes(m->skb, at, &r, sizeof(r)))
		return 1;
	live = bpf_map_lookup_elem(&flows, &r.key);
	if (!live || !(live->flags & (FLOW_DEAD | FLOW_EXPIRED)) || !take_flow(live, r.id))
		return 0;
	r.removed = 1;
	r.last_ns = live->last_ns;
	r.packets = live->packets;
	r.bytes = live->bytes;
	r.retransmits = live->retransmits;
	r.handshake = live->handshake;
	r.rtt = live->rtt;
	r.flags = live->flags;
	r.tcp_flags = live->tcp_flags;
	r.tcp_state = live->tcp_state;
	release(live);
	bpf_map_delete_elem(&flows, &r.key);
	bpf_skb_store_bytes(m->skb, at, &r, sizeof(r), 0);
	m->done++;
	return 0;
}

/* Leaves the final values in the packet. Returns how many entries were removed. */
SEC("tc")
int remove_flows(struct __sk_buff *skb)
{
	struct mark_run m = { .skb = skb };

	bpf_loop(REMOVE_MAX, remove_step, &m, 0);
	return m.done;
}
