//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Run by the agent as mark_flows is: an update of a row from user space would lose what packets add meanwhile. */

static __always_inline bool set_quota(const struct quota_order *o)
{
	struct quota fresh = { .limits = o->limits };
	struct quota *q = bpf_map_lookup_elem(&quotas, &o->key);

	if (!q)
		return !bpf_map_update_elem(&quotas, &o->key, &fresh, BPF_NOEXIST);
	q->limits = o->limits;
	return true;
}

static __always_inline struct usage *ordered_usage(const struct quota_order *o)
{
	struct quota *q;

	if (o->key.kind >= QUOTA_POOL)
		return bpf_map_lookup_elem(&ports, &o->key);
	q = bpf_map_lookup_elem(&quotas, &o->key);
	return q ? &q->usage : NULL;
}

/* Who finds a row that is being dropped takes from it more than there is, and is refused. */
static __always_inline bool drop_quota(const struct quota_order *o)
{
	struct usage *u = ordered_usage(o);

	if (!u || __sync_val_compare_and_swap(&u->used, 0, USAGE_GONE))
		return false;
	if (o->key.kind >= QUOTA_POOL)
		bpf_map_delete_elem(&ports, &o->key);
	else
		bpf_map_delete_elem(&quotas, &o->key);
	return true;
}

static __always_inline bool adjust_quota(const struct quota_order *o)
{
	struct usage *u = ordered_usage(o);

	return u && u->made == o->made && __sync_val_compare_and_swap(&u->used, o->used, o->used + o->amount) == o->used;
}

static long order_step(__u32 i, struct mark_run *m)
{
	__u32 at = MARK_HEADER + i * sizeof(struct quota_order);
	struct quota_order o;

	if (bpf_skb_load_bytes(m->skb, at, &o, sizeof(o)))
		return 1;
	if (o.order == QUOTA_SET)
		o.done = set_quota(&o);
	else if (o.order == QUOTA_ADJUST)
		o.done = adjust_quota(&o);
	else if (o.order == QUOTA_DROP)
		o.done = drop_quota(&o);
	bpf_skb_store_bytes(m->skb, at, &o, sizeof(o), 0);
	m->done += o.done;
	return 0;
}

/* Leaves the answers in the packet. Returns how many orders were carried out. */
SEC("tc")
int set_quotas(struct __sk_buff *skb)
{
	struct mark_run m = { .skb = skb };

	bpf_loop(QUOTA_ORDERS, order_step, &m, 0);
	return m.done;
}
