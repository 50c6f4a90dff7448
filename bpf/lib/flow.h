/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Flow entries: found, judged, counted, made. */
#ifndef CULVERT_FLOW_H
#define CULVERT_FLOW_H

enum { ABSENT = -1 };	/* besides reasons: no flow entry */

static __always_inline bool key_equal(const struct flow_key *a, const struct flow_key *b)
{
	return a->vpc == b->vpc && a->saddr == b->saddr && a->daddr == b->daddr && a->sport == b->sport &&
	       a->dport == b->dport && a->tag == b->tag && a->view == b->view && a->protocol == b->protocol;
}

/* Copies an entry out. The kernel recycles hash elements at once, so the copy must prove that it is the one asked for. */
static __always_inline struct flow *copy_flow(const struct flow_key *key, struct flow *copy)
{
	struct flow *live = bpf_map_lookup_elem(&flows, key);

	if (!live)
		return NULL;
	__builtin_memcpy(copy, live, sizeof(*copy));
	return key_equal(&copy->key, key) ? live : NULL;
}

/* Whoever takes the id of an entry removes it, and nobody else: two deletions by key would hit the next flow of that key. */
static __always_inline bool take_flow(struct flow *live, __u64 id)
{
	return id && __sync_val_compare_and_swap(&live->id, id, 0) == id;
}

/* Removes the entry of s->own. Its counters would be lost: the event carries them. */
static __always_inline void remove_entry(struct scratch *s, struct flow *live)
{
	if (!take_flow(live, s->own.id))
		return;
	s->own.packets = live->packets;
	s->own.bytes = live->bytes;
	bpf_map_delete_elem(&flows, &s->own.key);
	emit_flow(&s->own, EVENT_REMOVED);
}

/* Removes both entries of the flow whose entry live is, copied to s->own. */
static __noinline int remove_flow(struct scratch *s, struct flow *live)
{
	struct flow_key pair = s->own.reverse;
	__u64 id = s->own.id;

	remove_entry(s, live);
	live = copy_flow(&pair, &s->own);
	if (live && s->own.id == id)
		remove_entry(s, live);
	return ABSENT;
}

/*
 * A provider's flow that nobody closed may leave an open socket at the target: what holds the port meets that socket. So
 * the port stays taken, though the flow's time be over or its permission gone, until the agent removes the entry.
 */
static __always_inline bool holds_port(const struct flow *f)
{
	return !(f->flags & FLOW_CLOSED) && (f->flags & FLOW_DEST_TAGGED || f->key.view == VIEW_PROVIDER);
}

/* Does a packet open this flow, which is over, anew? Where a port is held only its own consumer's does. */
static __always_inline bool reopens(const struct flow *f, const struct packet *p)
{
	return opens(p) && (f->flags & FLOW_OPENING || !holds_port(f));
}

/* Asks for permission again, for the opening direction whichever direction the packet has. */
static __noinline int judge(struct scratch *s, const struct config *config, struct flow *live)
{
	struct flow *pair = copy_flow(&s->own.reverse, &s->other);
	bool whole = pair && s->other.id == s->own.id;

	if (whole) {
		__builtin_memcpy(&s->open, s->own.flags & FLOW_OPENING ? &s->own : &s->other, sizeof(s->open));
		if (!decide(s, config, true)) {
			live->generation = config->generation;
			pair->generation = config->generation;
			s->own.generation = config->generation;
			return REASON_NONE;
		}
		pair->flags |= FLOW_DEAD;
	}
	live->flags |= FLOW_DEAD;
	return REASON_FLOW_REVOKED;
}

/* A RST, or a FIN of each direction, closes both entries. */
static __noinline int tcp_state(struct scratch *s, struct flow *live)
{
	struct flow *pair;
	__u8 seen = s->own.tcp_flags | s->packet.tcp_flags;

	if (seen != s->own.tcp_flags) {
		live->tcp_flags |= seen;
		s->own.tcp_flags = seen;
	}
	if (s->own.flags & FLOW_CLOSED || !(seen & (TCP_FIN | TCP_RST)))
		return 0;
	pair = copy_flow(&s->own.reverse, &s->other);
	if (pair && s->other.id != s->own.id)
		pair = NULL;
	if (!(seen & TCP_RST) && !(pair && s->other.tcp_flags & TCP_FIN))
		return 0;
	live->flags |= FLOW_CLOSED;
	s->own.flags |= FLOW_CLOSED;
	if (pair) {
		pair->flags |= FLOW_CLOSED;
		emit_flow(&s->other, EVENT_CLOSE);
	}
	emit_flow(&s->own, EVENT_CLOSE);
	return 0;
}

/* Toward the tunnel the program is the only one that looks at the size. */
static __always_inline bool fits(const struct __sk_buff *skb, const struct run *r, __u8 next)
{
	const struct packet *p = &r->s->packet;
	__u32 length = skb->gso_size ? skb->gso_size + 20 + p->header : p->length;

	return next != NEXT_TUNNEL || length + 20 <= r->config->tunnel_mtu;
}

/* The packet's own entry to s->own. ABSENT when there is none, REASON_NONE when the packet may go on and is counted. */
static __noinline int established(struct __sk_buff *skb, struct run *r)
{
	struct scratch *s = r->s;
	struct packet *p = &s->packet;
	struct flow *live = copy_flow(&s->key, &s->own);
	int reason;

	if (!live || !s->own.id)
		return ABSENT;
	if (s->own.flags & FLOW_EXPIRED) {
		if (!holds_port(&s->own))
			return remove_flow(s, live);
		return reopens(&s->own, p) ? ABSENT : REASON_NO_FLOW;
	}
	if (p->hook != HOOK_WORKLOAD) {
		if (s->own.source_vpc != p->source_vpc || s->own.dest_vpc != p->dest_vpc)
			return REASON_BAD_OVERLAY;
		p->eni = s->own.eni;
	}
	if (s->own.flags & (FLOW_DEAD | FLOW_CLOSED) && (p->protocol == IPPROTO_TCP || holds_port(&s->own)) &&
	    reopens(&s->own, p)) {
		if (p->hook != HOOK_WORKLOAD)
			p->eni = 0;
		return holds_port(&s->own) ? ABSENT : remove_flow(s, live);
	}
	if (s->own.flags & FLOW_DEAD)
		return REASON_FLOW_REVOKED;
	if (s->own.generation != r->config->generation) {
		reason = judge(s, r->config, live);
		if (reason)
			return reason;
	}
	if (p->hook != HOOK_WORKLOAD)
		r->eni = find_eni(p->dest_vpc, p->daddr);
	if (!r->eni || r->eni->number != s->own.eni)
		return REASON_NOT_HERE;
	if (!fits(skb, r, s->own.next))
		return REASON_TOO_BIG;
	__sync_fetch_and_add(&live->packets, p->packets);
	__sync_fetch_and_add(&live->bytes, p->bytes);
	live->last_ns = bpf_ktime_get_boot_ns();
	s->own.packets += p->packets;
	s->own.bytes += p->bytes;
	if (p->protocol == IPPROTO_TCP)
		tcp_state(s, live);
	return REASON_NONE;
}

/* Another CPU, or an earlier life of this flow, made the answering entry already: take part in it. */
static __always_inline bool adopt(struct scratch *s)
{
	const struct flow *there = bpf_map_lookup_elem(&flows, &s->other.key);

	__u64 id;

	if (!there || there->flags & (FLOW_DEAD | FLOW_CLOSED) || !key_equal(&there->reverse, &s->open.key))
		return false;
	id = there->id;
	if (!id)
		return false;
	s->open.id = id;
	return true;
}

/* A flow whose time is over holds no key, but another's port. */
static __always_inline int insert_answering(struct scratch *s)
{
	struct flow *o = &s->other, *there;
	int err = bpf_map_update_elem(&flows, &o->key, o, BPF_NOEXIST);

	if (err != -EEXIST)
		return err;
	there = copy_flow(&o->key, &s->own);
	if (!there || !(s->own.flags & FLOW_EXPIRED))
		return err;
	if (holds_port(&s->own) && !key_equal(&s->own.reverse, &s->open.key))
		return err;
	remove_flow(s, there);
	return bpf_map_update_elem(&flows, &o->key, o, BPF_NOEXIST);
}

/* Reserves the answering entry; where addresses are translated this is what allocates the port. */
static __always_inline int reserve(struct scratch *s, bool search, bool *made)
{
	struct flow *e = &s->open, *o = &s->other;
	__u32 try;
	int err; /* before Linux 6.4 map operations return an int, with anything above it */

	for (try = 0; try <= LIMIT_PORT_TRIES; try++) {
		if (try) {
			e->sport = bpf_htons(1024 + hash_key(&e->key, try) % 64512);
			o->key.dport = e->sport;
		}
		e->reverse = o->key;
		err = insert_answering(s);
		if (!err)
			*made = true;
		if (!err || (err == -EEXIST && adopt(s)))
			return REASON_NONE;
		if (err != -EEXIST || !search)
			return REASON_FLOW_TABLE_FULL;
	}
	return REASON_SNAT_PORTS_EXHAUSTED;
}

/* What a flow that is over held the port for, its consumer has come back: the new flow gets the same one, first of all. */
static __always_inline void succeed(struct scratch *s)
{
	struct flow *e = &s->open, *o = &s->other, *old = copy_flow(&e->key, &s->own);

	if (!old || !(s->own.flags & (FLOW_DEAD | FLOW_EXPIRED)) || !holds_port(&s->own))
		return;
	e->sport = s->own.sport;
	o->key.dport = e->sport;
	remove_flow(s, old);
}

/* Makes both entries, the answering one first. */
static __noinline int create(struct scratch *s)
{
	struct flow *e = &s->open, *o = &s->other, *there;
	bool made = false;
	int reason, err;

	o->reverse = e->key;
	if (e->key.view == VIEW_PROVIDER)
		succeed(s);
	reason = reserve(s, e->key.view == VIEW_PROVIDER || e->flags & FLOW_SOURCE_TAGGED || e->next == NEXT_HOST, &made);
	if (reason)
		return reason;
	err = bpf_map_update_elem(&flows, &e->key, e, BPF_NOEXIST);
	if (err == -EEXIST) {
		there = bpf_map_lookup_elem(&flows, &e->key);
		if (there && there->id == e->id) {
			__sync_fetch_and_add(&there->packets, e->packets);
			__sync_fetch_and_add(&there->bytes, e->bytes);
			err = 0;
		}
	}
	if (err) {
		if (made)
			bpf_map_delete_elem(&flows, &o->key);
		return REASON_FLOW_TABLE_FULL;
	}
	if (made)
		emit_flow(e, EVENT_OPEN);
	return REASON_NONE;
}

/* A packet without an entry: may it open a flow? Leaves the new entry in s->own, as if it had been found. */
static __noinline int open_flow(struct __sk_buff *skb, struct run *r)
{
	struct scratch *s = r->s;
	int reason;

	draft(s, r->config);
	reason = decide(s, r->config, false);
	if (reason)
		return reason;
	if (!fits(skb, r, s->open.next))
		return REASON_TOO_BIG;
	reason = create(s);
	if (reason)
		return reason;
	if (s->packet.hook != HOOK_WORKLOAD)
		r->eni = find_eni(s->packet.dest_vpc, s->packet.daddr);
	if (!r->eni)
		return REASON_NOT_HERE;
	__builtin_memcpy(&s->own, &s->open, sizeof(s->own));
	return REASON_NONE;
}

#endif
