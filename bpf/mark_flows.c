//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Run by the agent through BPF_PROG_TEST_RUN, attached nowhere. An update of an entry from user space would replace it
 * and lose what packets add meanwhile; here one flag is set in place. Returns how many entries were marked.
 */

struct mark_run {
	struct __sk_buff *skb;
	__u32 marked;
	__u32 pad;
};

static long mark_step(__u32 i, struct mark_run *m)
{
	struct flow_mark mark;
	struct flow *live;

	if (bpf_skb_load_bytes(m->skb, MARK_HEADER + i * sizeof(mark), &mark, sizeof(mark)))
		return 1;
	live = bpf_map_lookup_elem(&flows, &mark.key);
	if (live && live->id == mark.id) {
		live->flags |= FLOW_DEAD;
		m->marked++;
	}
	return 0;
}

SEC("tc")
int mark_flows(struct __sk_buff *skb)
{
	struct mark_run m = { .skb = skb };

	bpf_loop(MARK_MAX, mark_step, &m, 0);
	return m.marked;
}
