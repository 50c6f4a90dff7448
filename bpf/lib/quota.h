/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Who may have how much of the flow table, of source ports and of a service. A flow is charged before its entries are
 * made, an entry is given back by whoever takes its id, once. Decision 0015.
 */
#ifndef CULVERT_QUOTA_H
#define CULVERT_QUOTA_H

/* In used: the row is being dropped. More than any bound. */
#define USAGE_GONE (1ULL << 62)

static __always_inline struct quota *find_quota(__u32 kind, __u32 id)
{
	struct quota_key key = { .kind = kind, .id = id };

	return bpf_map_lookup_elem(&quotas, &key);
}

/* The half of an endpoint connection that an entry belongs to. */
static __always_inline __u32 quota_side(const struct flow *f)
{
	return f->flags & FLOW_DEST_TAGGED || key_view(&f->key) == VIEW_PROVIDER ? QUOTA_RECEIVED : QUOTA_SENT;
}

/* An answering entry at a provider takes a port of the load balancer's address. */
static __always_inline bool takes_port(const struct flow *f)
{
	return f->flags & FLOW_DEST_TAGGED && key_view(&f->key) == VIEW_WORKLOAD;
}

static __always_inline void pool_key(const struct flow *answering, struct quota_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->kind = QUOTA_POOL;
	key->vpc = answering->key.vpc;
	key->source = answering->key.daddr;
	key->target = answering->key.saddr;
	key->port = answering->key.sport;
	key->protocol = answering->key.protocol;
}

static __always_inline struct usage *find_ports(const struct quota_key *key)
{
	struct usage fresh = {}, *u = bpf_map_lookup_elem(&ports, key);

	if (u)
		return u;
	bpf_map_update_elem(&ports, key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&ports, key);
}

/* How many are used with these n. Others who take back at this moment make it more than it is, never less. */
static __always_inline __s64 take_usage(struct usage *u, __u64 n)
{
	__sync_fetch_and_add(&u->made, n);
	return __sync_fetch_and_add(&u->used, n) + n;
}

static __always_inline void give_usage(struct usage *u, __u64 n)
{
	if (u && n)
		__sync_fetch_and_add(&u->used, -n);
}

/* Gives back one entry, which was taken; f may be a live one. */
APART(release, (const struct flow *f), f, (f), 0)
{
	struct quota_key key = { .kind = QUOTA_TABLE };
	struct quota *q = bpf_map_lookup_elem(&quotas, &key);

	if (q)
		give_usage(&q->usage, 1);
	q = find_quota(QUOTA_ACCOUNT, f->account);
	if (q)
		give_usage(&q->usage, 1);
	if (f->connection) {
		q = find_quota(quota_side(f), f->connection);
		if (q)
			give_usage(&q->usage, 1);
	}
	if (!takes_port(f))
		return 0;
	pool_key(f, &key);
	give_usage(bpf_map_lookup_elem(&ports, &key), 1);
	key.kind = QUOTA_PORTS;
	key.id = f->connection;
	give_usage(bpf_map_lookup_elem(&ports, &key), 1);
	return 0;
}

/* What a new flow was charged to. */
struct charge {
	struct quota *table, *account, *connection;	/* two entries each */
	struct usage *pool, *ports;			/* a port each */
};

/* Gives back what was not made after all. */
static __always_inline void refund(const struct charge *c, __u64 entries, __u64 ports)
{
	if (c->table)
		give_usage(&c->table->usage, entries);
	if (c->account)
		give_usage(&c->account->usage, entries);
	if (c->connection)
		give_usage(&c->connection->usage, entries);
	give_usage(c->pool, ports);
	give_usage(c->ports, ports);
}

/* Two entries of the table, of the account's share, of the connection's: each bound by itself and by what is left open above. */
static __always_inline int charge_entries(const struct flow *e, struct charge *c)
{
	struct quota *t = find_quota(QUOTA_TABLE, 0), *a = find_quota(QUOTA_ACCOUNT, e->account), *q;
	__s64 in_table, in_account, used;

	if (!t)
		return REASON_FLOW_TABLE_FULL;
	c->table = t;
	in_table = take_usage(&t->usage, 2);
	if (in_table > t->limits.ceiling)
		return REASON_FLOW_TABLE_FULL;
	if (!a)
		return REASON_ACCOUNT_FLOWS_FULL;
	c->account = a;
	in_account = take_usage(&a->usage, 2);
	if (in_account > a->limits.ceiling || (in_account > a->limits.guaranteed && in_table > t->limits.open))
		return REASON_ACCOUNT_FLOWS_FULL;
	if (!e->connection)
		return in_account > a->limits.open ? REASON_ACCOUNT_FLOWS_FULL : REASON_NONE;
	q = find_quota(quota_side(e), e->connection);
	if (!q)
		return REASON_ENDPOINT_FLOWS_FULL;
	c->connection = q;
	used = take_usage(&q->usage, 2);
	if (used > q->limits.ceiling || (used > q->limits.guaranteed && in_account > a->limits.open))
		return REASON_ENDPOINT_FLOWS_FULL;
	if (q->limits.most && used > q->limits.most)
		return REASON_CAP_FLOWS;
	return REASON_NONE;
}

/* A port toward the target: what is kept for connections that have few is more than all of them are guaranteed. */
static __always_inline int charge_port(struct scratch *s, struct charge *c)
{
	struct quota_key key;
	__s64 in_pool, used;

	pool_key(&s->other, &key);
	c->pool = find_ports(&key);
	if (!c->pool)
		return REASON_SNAT_PORTS_EXHAUSTED;
	in_pool = take_usage(c->pool, 1);
	key.kind = QUOTA_PORTS;
	key.id = s->other.connection;
	c->ports = find_ports(&key);
	if (!c->ports)
		return REASON_SNAT_PORTS_EXHAUSTED;
	used = take_usage(c->ports, 1);
	s->spare_ports = used <= s->guaranteed_ports;
	if (in_pool > PORT_END || used > PORT_END || (in_pool > LIMIT_POOL_OPEN && !s->spare_ports))
		return REASON_SNAT_PORTS_EXHAUSTED;
	return REASON_NONE;
}

/* What one new flow costs of so many a second. */
static __always_inline __u64 connect_cost(__u64 rate)
{
	return (SECOND_NS + rate - 1) / rate;
}

/* What so many bytes cost of so many bits a second. */
static __always_inline __u64 bits_cost(__u64 rate, __u32 bytes)
{
	return ((__u64)bytes * 8 * SECOND_NS + rate - 1) / rate;
}

/* May so many bytes pass now? */
static __always_inline bool police(struct quota *q, __u64 *paid, __u32 bytes)
{
	__u64 rate = q->limits.bits_per_s, burst;

	if (!rate)
		return true;
	burst = (__u64)LIMIT_POLICE_BYTES * 8 * SECOND_NS / rate;
	if (burst < SECOND_NS / 10)
		burst = SECOND_NS / 10;
	return rate_allows(paid, rate_now(), bits_cost(rate, bytes), burst);
}

/* The service's caps, for the first packet of a flow. What one of them refuses has no part in the other. */
static __always_inline int charge_rates(struct scratch *s, struct quota *q)
{
	__u64 rate;

	if (!q)
		return REASON_NONE;
	rate = q->limits.connections_per_s;
	if (rate && !rate_allows(&q->connect_ns, rate_now(), connect_cost(rate), SECOND_NS))
		return REASON_CAP_CONNECTIONS;
	if (!q->limits.bits_per_s)
		return REASON_NONE;
	if (!police(q, &q->opening_ns, s->packet.bytes)) {
		if (rate)
			rate_refund(&q->connect_ns, connect_cost(rate));
		return REASON_CAP_BITS;
	}
	s->open.flags |= FLOW_POLICED;
	if (quota_side(&s->open) == QUOTA_RECEIVED)
		s->other.flags |= FLOW_POLICED;
	return REASON_NONE;
}

/* A flow that was let in, and then not made. */
static __always_inline void refund_rates(const struct scratch *s, struct quota *q)
{
	__u64 rate = q->limits.connections_per_s;

	if (rate)
		rate_refund(&q->connect_ns, connect_cost(rate));
	rate = q->limits.bits_per_s;
	if (rate && s->open.flags & FLOW_POLICED)
		rate_refund(&q->opening_ns, bits_cost(rate, s->packet.bytes));
}

/* Charges the flow of s->open and s->other; what was taken before a refusal is in c and must be given back. */
static __noinline int charge(struct scratch *s, struct charge *c)
{
	int reason;

	__builtin_memset(c, 0, sizeof(*c));
	reason = charge_entries(&s->open, c);
	if (!reason && takes_port(&s->other))
		reason = charge_port(s, c);
	return reason ? reason : charge_rates(s, c->connection);
}

/* A packet of s->own, a flow whose connection has a cap of bits/s. Answers were policed at the provider, when they come from it. */
static __noinline bool policed(struct scratch *s)
{
	struct quota *q = find_quota(quota_side(&s->own), s->own.connection);

	return q && police(q, s->own.flags & FLOW_OPENING ? &q->opening_ns : &q->answering_ns, s->packet.bytes);
}

/* A plan may bring or take a cap: the flags of a flow that is judged again follow. s->open is its opening entry. */
static __always_inline void judge_police(struct scratch *s, struct flow *live, struct flow *pair)
{
	const struct quota *q;
	bool both, opening = s->own.flags & FLOW_OPENING;

	if (!s->open.connection)
		return;
	q = find_quota(quota_side(&s->open), s->open.connection);
	both = quota_side(&s->open) == QUOTA_RECEIVED;
	live->flags &= ~FLOW_POLICED;
	pair->flags &= ~FLOW_POLICED;
	s->own.flags &= ~FLOW_POLICED;
	if (!q || !q->limits.bits_per_s)
		return;
	if (both || opening) {
		live->flags |= FLOW_POLICED;
		s->own.flags |= FLOW_POLICED;
	}
	if (both || !opening)
		pair->flags |= FLOW_POLICED;
}

#endif
