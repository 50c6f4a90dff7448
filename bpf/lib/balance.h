/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Target tables (decision 0014). An inner array of 64-bit words: first how many targets it lists; then TABLE_SLOTS indexes of
 * them, `table_width` bits each, the lowest bits of a word first, none straddling two; then the targets, by address and port.
 * bpf/targets.go writes it.
 */
#ifndef CULVERT_BALANCE_H
#define CULVERT_BALANCE_H

/* Where the targets begin. */
static __always_inline __u32 table_targets(__u32 width)
{
	__u32 per_word = width ? 64 / width : 1;

	return width ? 1 + (TABLE_SLOTS + per_word - 1) / per_word : 1;
}

/* The target of a slot. */
static __always_inline const struct target *table_slot(void *inner, __u32 width, __u32 slot)
{
	__u32 per_word = 64 / width, at = 1 + slot / per_word;
	const __u64 *word = bpf_map_lookup_elem(inner, &at);

	if (!word)
		return NULL;
	at = table_targets(width) + ((*word >> (slot % per_word * width)) & ((1U << width) - 1));
	return bpf_map_lookup_elem(inner, &at);
}

/* What picks a slot: the whole tuple, or only the client where the target group is sticky. */
static __always_inline __u32 slot_of(const struct flow_key *k, const struct service *service)
{
	__u32 hash = service->flags & SERVICE_STICKY ? hash_tuple(bpf_ntohl(k->saddr), 0, 0, 0, k->vpc, 0) : hash_key(k, 0);

	return hash % TABLE_SLOTS;
}

/* A service's table with the bits of its slots, as one word of the row: neither fits another's. */
struct service_table {
	__u32 id;
	__u8 width;
	__u8 rest[3];
};

static __always_inline struct service_table table_of(const struct service *service)
{
	struct service_table t;
	__u64 word;

	_Static_assert(__builtin_offsetof(struct service, table) % sizeof(word) == 0, "one word");
	_Static_assert(__builtin_offsetof(struct service, table_width) == __builtin_offsetof(struct service, table) + 4, "the same");
	word = *(const volatile __u64 *)&service->table;
	__builtin_memcpy(&t, &word, sizeof(t));
	return t;
}

/* One target of the service, the same for every packet with these addresses and ports. */
static __always_inline const struct target *pick_target(const struct flow_key *key, const struct service *service)
{
	struct service_table t = table_of(service);
	__u32 table = t.id, width = t.width;
	void *inner;

	if (!width || width > 16)
		return NULL;
	inner = bpf_map_lookup_elem(&target_tables, &table);
	return inner ? table_slot(inner, width, slot_of(key, service)) : NULL;
}

struct listed_query {
	void *inner;
	__u32 first, low, high;	/* of the targets: where they begin, and the range that is left */
	__u32 addr;		/* host order */
	__u16 port;		/* host order */
	__u16 found;
};

/* One step of bpf_loop: a binary search, by address and port. */
static long listed_step(__u32 i, struct listed_query *q)
{
	__u32 middle = (q->low + q->high) / 2, at = q->first + middle, addr;
	const struct target *t;
	__u16 port;

	if (q->low >= q->high)
		return 1;
	t = bpf_map_lookup_elem(q->inner, &at);
	if (!t)
		return 1;
	addr = bpf_ntohl(t->addr);
	port = bpf_ntohs(t->port);
	if (addr == q->addr && port == q->port) {
		q->found = 1;
		return 1;
	}
	if (addr < q->addr || (addr == q->addr && port < q->port))
		q->low = middle + 1;
	else
		q->high = middle;
	return 0;
}

/* Whether a service's table lists a target, be it for its old flows only. */
static __noinline int table_lists(const struct service *service, __u32 addr, __u16 port)
{
	struct listed_query q = { .addr = bpf_ntohl(addr), .port = bpf_ntohs(port) };
	struct service_table t = table_of(service);
	__u32 table = t.id, zero = 0;
	const __u64 *count;

	q.inner = bpf_map_lookup_elem(&target_tables, &table);
	if (!q.inner)
		return 0;
	count = bpf_map_lookup_elem(q.inner, &zero);
	if (!count)
		return 0;
	q.first = table_targets(t.width);
	q.high = *count;
	bpf_loop(TABLE_SEARCH, listed_step, &q, 0);
	return q.found;
}

#endif
