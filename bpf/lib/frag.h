/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Fragments. The first one of a datagram has the ports and is judged as a whole packet is; those that come after it go its
 * way by what is remembered. A source has room for its newest LIMIT_FRAGMENTS datagrams and pushes out only its own; an
 * account has so many sources, a connection so many ids. Decision 0012.
 */
#ifndef CULVERT_FRAG_H
#define CULVERT_FRAG_H

enum { FRAGMENT_BLOCK = 0x10000 / LIMIT_ID_BLOCKS };	/* ids */
#define FRAGMENT_NS (30ull * 1000 * 1000 * 1000)	/* how long Linux waits for the rest: net.ipv4.ipfrag_time */

static __always_inline void fragment_key(const struct packet *p, __u32 vpc, struct fragment_key *k)
{
	k->vpc = vpc;
	k->saddr = p->saddr;
	k->daddr = p->daddr;
	k->id = p->id;
	k->tag = p->tag;
	k->view = p->view | (p->ipv6 ? KEY_IPV6 : 0);
	k->protocol = p->protocol;
}

static __always_inline bool fragment_key_equal(const struct fragment_key *a, const struct fragment_key *b)
{
	return a->vpc == b->vpc && a->saddr == b->saddr && a->daddr == b->daddr && a->id == b->id && a->tag == b->tag &&
	       a->view == b->view && a->protocol == b->protocol;
}

/* Gives a later fragment the ports of its first one. */
APART(recall_fragment, (struct packet *p, __u32 vpc), p, (p, vpc), REASON_INTERNAL)
{
	struct fragment_key key;
	struct fragment *live, f;

	fragment_key(p, vpc, &key);
	live = bpf_map_lookup_elem(&fragments, &key);
	if (!live)
		return REASON_FRAGMENT;
	__builtin_memcpy(&f, live, sizeof(f));
	barrier(); /* recycled while it was copied: the key is the next datagram's by now, as with flows */
	if (!fragment_key_equal(&f.key, &key) || !fragment_key_equal(&live->key, &key) || bpf_ktime_get_boot_ns() - f.since_ns > FRAGMENT_NS ||
	    (p->fragment & FRAGMENT_OFFSET) * 8 < f.end)
		return REASON_FRAGMENT;
	p->sport = f.sport;
	p->dport = f.dport;
	p->fresh = f.id;
	return REASON_NONE;
}

/* How many sources of fragments there is room for, and pairs of addresses: the sizes of fragment_rings and fragment_pairs. */
const volatile __u32 fragment_sources = 64;
const volatile __u32 fragment_pairs_most = 256;

static __always_inline __u64 *find_count(__u32 rows, __u32 account)
{
	struct fragment_count key = { .rows = rows, .account = account };
	__u64 zero = 0, *n = bpf_map_lookup_elem(&fragment_counts, &key);

	if (n)
		return n;
	bpf_map_update_elem(&fragment_counts, &key, &zero, BPF_NOEXIST);
	return bpf_map_lookup_elem(&fragment_counts, &key);
}

/*
 * May an account have one more row? It gets half of all at most, and once three quarters are taken only who has less than a
 * 32nd gets one. A row that is not made after all counts until the agent's sweep.
 */
__noinline int take_row(__u32 rows, __u32 account, __u32 most)
{
	__u64 *all = find_count(rows | ROWS_ALL, 0), *own = find_count(rows, account), n, total;

	if (!all || !own)
		return 0;
	n = __sync_fetch_and_add(own, 1) + 1;
	total = __sync_fetch_and_add(all, 1) + 1;
	if (n <= most / 2 && (n <= most / 32 || total <= most / 4 * 3))
		return 1;
	__sync_fetch_and_add(own, -1);
	__sync_fetch_and_add(all, -1);
	return 0;
}

/* The ids of a flow's pair. Pairs toward targets are those that grants name; others count as their account's. */
static __noinline struct fragment_ids *find_ids(const struct flow *f, const struct fragment_pair *key)
{
	struct fragment_ids fresh = {}, *ids = bpf_map_lookup_elem(&fragment_pairs, key);

	if (ids)
		return ids;
	if (key_view(&f->key) != VIEW_PROVIDER) {
		if (!take_row(ROWS_PAIRS, f->account, fragment_pairs_most))
			return NULL;
		fresh.account = f->account;
		fresh.counts = 1;
	}
	bpf_map_update_elem(&fragment_pairs, key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&fragment_pairs, key);
}

enum { PROMISED_PORTS = (PORT_OPEN - PORT_SPARE) / 2 };	/* toward one target, to all connections together */

/*
 * Consumers of one target use up the ids of one pair: each has a part that is kept for it, the rest is whose comes first. What
 * all may take together is less than comes back in time, so that nobody's part is missing.
 */
static __noinline int share_allows(const struct flow *f, const struct fragment_pair *pair, struct fragment_ids *ids)
{
	struct grant_target_key target_key = {
		.vpc = f->key.vpc, .tag = f->key.tag, .addr = f->key.daddr, .port = f->key.dport,
	};
	const struct grant_target *target = bpf_map_lookup_elem(&grant_targets, &target_key);
	struct fragment_share key = { .pair = *pair, .connection = f->connection };
	__u64 zero = 0, now = rate_now(), burst = (__u64)LIMIT_IDS_BURST * SECOND_NS, cost, *paid;

	if (target && target->ports) {
		paid = bpf_map_lookup_elem(&fragment_shares, &key);
		if (!paid) {
			bpf_map_update_elem(&fragment_shares, &key, &zero, BPF_NOEXIST);
			paid = bpf_map_lookup_elem(&fragment_shares, &key);
		}
		cost = (__u64)PROMISED_PORTS * SECOND_NS / ((__u64)LIMIT_KEPT_IDS * target->ports);
		if (paid && rate_allows(paid, now, cost, cost > burst ? cost : burst))
			return 1;
	}
	return rate_allows(&ids->open_ns, now, SECOND_NS / LIMIT_OPEN_IDS, burst);
}

/*
 * Where a translated source stands for many, the ids that these chose may be equal: the datagram gets one of the pair's own,
 * in turn. None is given again while a receiver may still wait for the rest of the datagram that had it before. Of a block
 * it is known when it was begun; it was used up when the next one was.
 */
static __noinline int fresh_id(const struct flow *f, struct packet *p, __u64 now)
{
	struct fragment_pair key = { .vpc = flow_dest_vpc(f), .saddr = f->saddr, .daddr = f->daddr };
	struct fragment_ids *ids = find_ids(f, &key);
	__u64 next, used;
	__u32 try, block;

	if (!ids || (key_view(&f->key) == VIEW_PROVIDER && !share_allows(f, &key, ids)))
		return REASON_FRAGMENT;
	for (try = 0; try < 4; try++) { /* other CPUs take from the same row */
		next = ids->next;
		block = next / FRAGMENT_BLOCK % LIMIT_ID_BLOCKS;
		if (!(next % FRAGMENT_BLOCK)) {
			used = ids->began_ns[(block + 1) % LIMIT_ID_BLOCKS];
			if (used && now - used <= FRAGMENT_NS)
				return REASON_FRAGMENT;
		}
		if (__sync_val_compare_and_swap(&ids->next, next, next + 1) != next)
			continue;
		if (!(next % FRAGMENT_BLOCK))
			ids->began_ns[block] = now;
		ids->last_ns = now;
		p->fresh = next & 0xffff;
		return REASON_NONE;
	}
	return REASON_FRAGMENT;
}

/* A place in its source's ring for a key that has none; whatever had the place is forgotten. */
static __always_inline int take_slot(struct scratch *s, const struct fragment_key *key, __u64 now)
{
	struct fragment_source source = { .vpc = key->vpc, .addr = key->saddr, .view = key->view };
	struct fragment_ring *ring = bpf_map_lookup_elem(&fragment_rings, &source);
	struct fragment_key old = *key;
	struct fragment_slot *slot;

	if (!ring) {
		if (!take_row(ROWS_RINGS, s->own.account, fragment_sources))
			return REASON_FRAGMENT;
		__builtin_memset(&s->ring, 0, sizeof(s->ring));
		s->ring.account = s->own.account;
		bpf_map_update_elem(&fragment_rings, &source, &s->ring, BPF_NOEXIST);
		ring = bpf_map_lookup_elem(&fragment_rings, &source);
	}
	if (!ring)
		return REASON_FRAGMENT;
	ring->last_ns = now;
	slot = &ring->held[__sync_fetch_and_add(&ring->next, 1) % LIMIT_FRAGMENTS];
	if (slot->used) {
		old.daddr = slot->daddr;
		old.id = slot->id;
		old.tag = slot->tag;
		old.protocol = slot->protocol;
		bpf_map_delete_elem(&fragments, &old);
	}
	slot->daddr = key->daddr;
	slot->id = key->id;
	slot->tag = key->tag;
	slot->protocol = key->protocol;
	slot->used = 1;
	return REASON_NONE;
}

/* A first fragment that may go on by s->own: those after it will go the same way, with the same id. */
__noinline int remember_fragment(void)
{
	struct scratch *s = run_scratch();
	struct fragment f = { .since_ns = bpf_ktime_get_boot_ns() };
	struct packet *p;
	int reason;

	if (!s)
		return REASON_INTERNAL;
	p = &s->packet;
	p->fresh = p->id;
	if ((p->hook != HOOK_WORKLOAD && s->own.saddr != p->saddr) || !p->ipv6 != !(s->own.reverse_view & KEY_IPV6)) {
		reason = fresh_id(&s->own, p, f.since_ns);
		if (reason)
			return reason;
	}
	fragment_key(p, s->key.vpc, &f.key);
	f.id = p->fresh;
	f.sport = p->sport;
	f.dport = p->dport;
	f.end = p->length - 20;
	if (!bpf_map_lookup_elem(&fragments, &f.key)) {
		reason = take_slot(s, &f.key, f.since_ns);
		if (reason)
			return reason;
	}
	return bpf_map_update_elem(&fragments, &f.key, &f, BPF_ANY) ? REASON_FRAGMENT : REASON_NONE;
}

/* The Fragment header, right behind the IPv6 header. */
static __always_inline int push_fragment_header(struct __sk_buff *skb, const struct packet *p)
{
	struct ipv6_fragment h = {
		.next_header = p->protocol,
		.offset = bpf_htons((p->fragment & FRAGMENT_OFFSET) << 3 | !!(p->fragment & FRAGMENT_MORE)),
		.id = bpf_htonl(p->fresh),
	};

	if (bpf_skb_adjust_room(skb, sizeof(h), BPF_ADJ_ROOM_NET, 0))
		return -1;
	return bpf_skb_store_bytes(skb, p->l3 + sizeof(struct ipv6), &h, sizeof(h), 0);
}

#endif
