//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Run by the agent as mark_flows is: rows that a table has already are written in place. An update from user space would put
 * another element in the row's place, which programs may miss meanwhile, and give the old one to the next update, while
 * programs read it. Decision 0019.
 */

/* Word by word, so that no field is ever half written; which fields may change beneath a program the agent knows. */
static __always_inline __u32 put_words(void *row, const __u64 *words, __u32 size)
{
	volatile __u64 *to = row;
	__u32 i;

	if (!row)
		return 0;
#pragma unroll
	for (i = 0; i < size / sizeof(*words); i++)
		to[i] = words[i];
	return 1;
}

#define PUT_ROW(MAP, TYPE, ORDER)								\
	({											\
		_Static_assert(sizeof(TYPE) % sizeof(__u64) == 0, "rows are words");		\
		_Static_assert(sizeof(TYPE) <= sizeof((ORDER)->words), "ROW_WORDS");		\
		put_words(bpf_map_lookup_elem(&(MAP), (ORDER)->key), (ORDER)->words, sizeof(TYPE));	\
	})

static __always_inline __u32 put_row(const struct row_order *o)
{
	switch (o->table) {
	case ROW_LINK:
		return PUT_ROW(links, struct link, o);
	case ROW_ENI:
		return PUT_ROW(enis, struct eni, o);
	case ROW_ADDRESS:
		return PUT_ROW(addresses, struct address, o);
	case ROW_SERVICE:
		return PUT_ROW(services, struct service, o);
	case ROW_GRANT:
		return PUT_ROW(grants, struct grant, o);
	case ROW_GRANT_TARGET:
		return PUT_ROW(grant_targets, struct grant_target, o);
	case ROW_PROBE:
		return PUT_ROW(probes, struct probe, o);
	case ROW_FRAGMENT_COUNT:
		return PUT_ROW(fragment_counts, __u64, o);
	}
	return 0;
}

static long row_step(__u32 i, struct mark_run *m)
{
	__u32 at = MARK_HEADER + i * sizeof(struct row_order);
	struct row_order o;

	if (bpf_skb_load_bytes(m->skb, at, &o, sizeof(o)))
		return 1;
	o.done = put_row(&o);
	bpf_skb_store_bytes(m->skb, at, &o, sizeof(o), 0);
	m->done += o.done;
	return 0;
}

/* Leaves the answers in the packet. Returns how many rows were written. */
SEC("tc")
int set_rows(struct __sk_buff *skb)
{
	struct mark_run m = { .skb = skb };

	bpf_loop(ROW_ORDERS, row_step, &m, 0);
	return m.done;
}
