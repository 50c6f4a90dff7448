/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Flow entries: found, judged, counted, made. */
#ifndef CULVERT_FLOW_H
#define CULVERT_FLOW_H

enum { ABSENT = -1 };	/* besides reasons: no flow entry */

/*
 * Tests widen the moments in which an entry may be recycled, by so many rounds, and leave out what proves a copy, to see
 * that it is needed. 0 in all other loads: the verifier then takes the code out.
 */
const volatile __u32 copy_stall = 0;
const volatile __u32 copy_any_key = 0;	/* keys are not looked at */
const volatile __u32 copy_once = 0;	/* nothing is read again behind the copy */
volatile __u64 copies_refused = 0;	/* with copy_stall */

/* An entry recycled before it is copied, and while it is: the key is copied by then, the rest again. */
static __noinline int stall_copy(struct flow *copy, const struct flow *live, __u32 half)
{
	bpf_loop(copy_stall, stall_step, NULL, 0);
	if (half)
		__builtin_memcpy(&copy->generation, &live->generation, sizeof(*copy) - __builtin_offsetof(struct flow, generation));
	return 0;
}

/* Without a branch for each field: each would be a path for the verifier. */
static __always_inline __u32 key_differs(const struct flow_key *a, const struct flow_key *b)
{
	return (a->vpc ^ b->vpc) | (a->saddr ^ b->saddr) | (a->daddr ^ b->daddr) | (a->sport ^ b->sport) | (a->dport ^ b->dport) |
	       (a->tag ^ b->tag) | (a->view ^ b->view) | (a->protocol ^ b->protocol);
}

/* x86-64 reads in order. Elsewhere an atomic operation that fetches is the barrier that every kernel here has. */
const volatile __u32 reads_in_order = 0;

/* The id as it stands after all that was read of the entry before. */
static __always_inline __u64 entry_id(struct flow *live)
{
	if (!reads_in_order)
		return __sync_fetch_and_add(&live->id, 0);
	barrier();
	return *(volatile __u64 *)&live->id;
}

/*
 * The kernel recycles hash elements at once, maybe while they are copied. The copy must be of the key that it was asked
 * for, and its flow there still: whoever removes an entry takes its id before it can be recycled. And the key must be there
 * still, behind the copy: the kernel writes a recycled element from its begin to its end, and the copy may have the next
 * flow's id, this one's key and the next one's rewrite.
 */
static __always_inline bool copy_proven(const struct flow_key *key, const struct flow *copy, struct flow *live)
{
	__u64 differs = copy_any_key ? 0 : key_differs(&copy->key, key);

	if (!copy_once) {
		differs |= entry_id(live) ^ copy->id;
		barrier();
		differs |= copy_any_key ? 0 : key_differs(&live->key, key);
	}

	if (copy_stall && differs)
		__sync_fetch_and_add(&copies_refused, 1);
	return !differs;
}

/* Copies an entry out. NULL where it is not there, or was recycled meanwhile. */
static __always_inline struct flow *copy_flow(const struct flow_key *key, struct flow *copy)
{
	struct flow *live = bpf_map_lookup_elem(&flows, key);

	if (!live)
		return NULL;
	if (copy_stall)
		stall_copy(copy, live, 0);
	__builtin_memcpy(copy, live, sizeof(*copy));
	if (copy_stall)
		stall_copy(copy, live, 1);
	return copy_proven(key, copy, live) ? live : NULL;
}

/* The entry of the other direction of s->own, copied to s->other. NULL when it is not there or another flow's. */
static __always_inline struct flow *copy_pair(struct scratch *s)
{
	struct flow_key key;
	struct flow *pair;

	reverse_key(&s->own, &key);
	pair = copy_flow(&key, &s->other);
	return pair && s->other.id == s->own.id ? pair : NULL;
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
	s->own.retransmits = live->retransmits;
	s->own.handshake = live->handshake;
	s->own.rtt = live->rtt;
	release(live);
	bpf_map_delete_elem(&flows, &s->own.key);
	emit_flow(&s->own, EVENT_REMOVED);
}

/* Removes both entries of the flow whose entry live is, copied to s->own. */
APART(remove_flow, (struct flow *live), live, (live), ABSENT)
{
	struct scratch *s = run_scratch();
	__u64 id;

	if (!s)
		return ABSENT;
	id = s->own.id;
	reverse_key(&s->own, &s->pair);
	remove_entry(s, live);
	live = copy_flow(&s->pair, &s->own);
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
	return !(f->flags & FLOW_CLOSED) && (f->flags & FLOW_DEST_TAGGED || key_view(&f->key) == VIEW_PROVIDER);
}

/* Does a packet open this flow, which is over, anew? Where a port is held only its own consumer's does. */
static __always_inline bool reopens(const struct flow *f, const struct packet *p)
{
	return opens(p) && (f->flags & FLOW_OPENING || !holds_port(f));
}

/*
 * A SYN that is sent again, to a target that has not answered: its node may have refused it, having heard earlier that it is
 * deregistered. Under a newer configuration it is a new flow, for which a target is picked.
 */
static __always_inline bool picks_anew(struct scratch *s)
{
	return s->packet.protocol == IPPROTO_TCP && s->own.flags & FLOW_SOURCE_TAGGED && opens(&s->packet) &&
	       !(copy_pair(s) && s->other.packets);
}

/* Asks for permission again, for the opening direction whichever direction the packet has. */
APART(judge, (struct scratch *s, const struct config *config, struct flow *live), s && config && live, (s, config, live),
      REASON_INTERNAL)
{
	struct flow *pair = copy_pair(s);
	__u32 generation = config->generation; /* of the rows that are asked, or of older ones */

	barrier_var(generation);
	if (pair) {
		__builtin_memcpy(&s->open, s->own.flags & FLOW_OPENING ? &s->own : &s->other, sizeof(s->open));
		if (!decide(s, config, true)) {
			s->own.mtu = flow_path(&s->open);
			live->mtu = s->own.mtu;
			pair->mtu = s->own.mtu;
			live->generation = generation;
			pair->generation = generation;
			s->own.generation = generation;
			judge_police(s, live, pair);
			return REASON_NONE;
		}
		pair->flags |= FLOW_DEAD;
	}
	live->flags |= FLOW_DEAD;
	return REASON_FLOW_REVOKED;
}

/* From the flags that the opener and the other side have sent. It only grows as they do. */
static __always_inline __u8 state_of(__u8 opener, __u8 other)
{
	if ((opener | other) & TCP_RST)
		return TCP_CLOSED;
	if (opener & other & TCP_FIN)
		return TCP_TIME_WAIT;
	if ((opener | other) & TCP_FIN)
		return TCP_FIN_WAIT;
	if (!(other & TCP_SYN))
		return TCP_SYN_SENT;
	return opener & TCP_ACK ? TCP_ESTABLISHED : TCP_SYN_RECEIVED;
}

/* Follows what the packet's flags change. A RST, or a FIN of each direction, closes both entries. */
APART(tcp_state, (struct scratch *s, struct flow *live), s && live, (s, live), 0)
{
	struct flow *pair;
	__u8 seen = s->own.tcp_flags | s->packet.tcp_flags, others, state;

	if (seen == s->own.tcp_flags && (s->own.flags & FLOW_CLOSED || !(seen & (TCP_FIN | TCP_RST))))
		return 0;
	live->tcp_flags |= seen;
	s->own.tcp_flags = seen;
	pair = copy_pair(s);
	others = pair ? s->other.tcp_flags : 0;
	state = s->own.flags & FLOW_OPENING ? state_of(seen, others) : state_of(others, seen);
	if (state > s->own.tcp_state) {
		live->tcp_state = state;
		s->own.tcp_state = state;
	}
	if (pair && state > s->other.tcp_state) {
		pair->tcp_state = state;
		s->other.tcp_state = state;
	}
	if (s->own.flags & FLOW_CLOSED || state < TCP_TIME_WAIT)
		return 0;
	live->flags |= FLOW_CLOSED;
	s->own.flags |= FLOW_CLOSED;
	if (pair)
		pair->flags |= FLOW_CLOSED;
	emit_flow(&s->own, EVENT_CLOSE);
	return 0;
}

/*
 * Can the packet not go its way? Toward the tunnel the program is the only one that looks at the size: IPv4 grows by 20 bytes
 * there, and the length of IPv6 is told without them. The host is asked in whole packets only.
 */
static __always_inline int misfit(const struct __sk_buff *skb, struct run *r, const struct flow *f)
{
	const struct packet *p = &r->s->packet;
	__u32 length = skb->gso_size ? skb->gso_size + 20 + p->header : p->length;

	if (f->next == NEXT_HOST && (p->fragment || p->about))
		return REASON_HOST_NOT_ADMITTED;
	if (f->proxy && p->fragment) /* its segments are numbered anew, whole ones */
		return REASON_FRAGMENT;
	if (p->fragment)
		length += sizeof(struct ipv6_fragment);
	r->mtu = flow_mtu(r->config, f);
	if (f->next == NEXT_TUNNEL && length + 20 > r->mtu)
		return REASON_TOO_BIG;
	if (f->next == NEXT_WORKLOAD && lacks_checksum(p, f) && !checksum_possible(skb, p))
		return REASON_NO_CHECKSUM;
	return REASON_NONE;
}

/* The packet's own entry to s->own. ABSENT when there is none, REASON_NONE when the packet may go on and is counted. */
static __noinline int established(struct __sk_buff *skb, struct run *r)
{
	struct scratch *s = r->s;
	struct packet *p = &s->packet;
	struct flow *live = copy_flow(&s->key, &s->own);
	struct icmp icmp;
	int reason;

	p->held = 0;
	if (!live || !s->own.id)
		return ABSENT;
	p->held = 1;
	if (p->view == VIEW_CLIENT && flow_source_vpc(&s->own) != p->source_vpc) /* another VPC's target, of the same address */
		return ABSENT;
	if (s->own.flags & FLOW_EXPIRED) {
		if (!holds_port(&s->own))
			return remove_flow(live);
		return reopens(&s->own, p) ? ABSENT : REASON_NO_FLOW;
	}
	if (p->hook != HOOK_WORKLOAD) {
		if (flow_source_vpc(&s->own) != p->source_vpc || flow_dest_vpc(&s->own) != p->dest_vpc)
			return REASON_BAD_OVERLAY;
		p->eni = s->own.eni;
	}
	if (s->own.flags & (FLOW_DEAD | FLOW_CLOSED) && (p->protocol == IPPROTO_TCP || holds_port(&s->own)) &&
	    reopens(&s->own, p)) {
		if (p->hook != HOOK_WORKLOAD)
			p->eni = 0;
		return holds_port(&s->own) ? ABSENT : remove_flow(live);
	}
	if (s->own.flags & FLOW_DEAD)
		return REASON_FLOW_REVOKED;
	if (s->own.generation != r->config->generation) {
		if (picks_anew(s))
			return remove_flow(live);
		reason = judge(s, r->config, live);
		if (reason)
			return reason;
	}
	if (p->hook != HOOK_WORKLOAD)
		r->eni = find_eni(p->dest_vpc, p->daddr);
	if (!r->eni || r->eni->number != s->own.eni)
		return REASON_NOT_HERE;
	reason = misfit(skb, r, &s->own);
	if (reason)
		return reason;
	if (p->about && changes_family(p, &s->own) && !map_error(p, &icmp, 0))
		return REASON_PROTOCOL;
	if (p->about && !(copy_pair(s) && s->other.packets)) /* about what was never sent to this end */
		return REASON_NO_FLOW;
	if (s->own.flags & FLOW_POLICED && !policed(s))
		return REASON_CAP_BITS;
	__sync_fetch_and_add(&live->packets, p->packets);
	__sync_fetch_and_add(&live->bytes, p->bytes);
	if (!p->about)
		live->last_ns = p->now;
	s->own.packets += p->packets;
	s->own.bytes += p->bytes;
	proxy_hold(s);
	if (p->protocol == IPPROTO_TCP) {
		tcp_measure(s, live, skb->gso_size);
		tcp_state(s, live);
	}
	return REASON_NONE;
}

/* Another CPU, or an earlier life of this flow, made the answering entry already: take part in it. */
static __always_inline bool adopt(struct scratch *s)
{
	const struct flow *there = bpf_map_lookup_elem(&flows, &s->other.key);
	__u64 id;

	if (!there || there->flags & (FLOW_DEAD | FLOW_CLOSED) || there->proxy != s->open.proxy)
		return false;
	reverse_key(there, &s->pair);
	if (!key_equal(&s->pair, &s->open.key))
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
	reverse_key(&s->own, &s->pair);
	if (holds_port(&s->own) && !key_equal(&s->pair, &s->open.key))
		return err;
	remove_flow(there);
	return bpf_map_update_elem(&flows, &o->key, o, BPF_NOEXIST);
}

/* The port tried at a try after the client's own: first of those that are open, then of those that are kept. */
static __always_inline __u16 port_at(const struct flow_key *key, __u32 try)
{
	__u32 h = hash_key(key, (__u32)key->tag << 16 | try); /* the tag: one client may come by many endpoints */

	if (key_view(key) == VIEW_HOST)
		return bpf_htons(PORT_PROBE + h % (PORT_SPARE - PORT_PROBE));
	if (try > LIMIT_PORT_TRIES)
		return bpf_htons(PORT_SPARE + h % (PORT_OPEN - PORT_SPARE));
	return bpf_htons(PORT_OPEN + h % (PORT_END - PORT_OPEN));
}

/* The client's own port is not tried where it is one of those kept, unless the flow had it before; a probe's never. */
static __always_inline bool own_port(const struct scratch *s, bool held)
{
	__u16 port = bpf_ntohs(s->open.sport);

	if (key_view(&s->open.key) == VIEW_HOST)
		return false;
	return held || !takes_port(&s->other) || s->spare_ports || port < PORT_SPARE || port >= PORT_OPEN;
}

struct port_search {
	struct scratch *s;
	int reason;
	bool search;
	bool held;	/* the first port is one that the flow had before */
	bool made;
};

/* One try; 1 ends the search. */
static long port_step(__u32 try, struct port_search *x)
{
	struct scratch *s = x->s;
	struct flow *e = &s->open, *o = &s->other;
	int err; /* before Linux 6.4 map operations return an int, with anything above it */

	if (try) {
		e->sport = port_at(&e->key, try);
		o->key.dport = e->sport;
	} else if (!own_port(s, x->held)) {
		return 0;
	}
	err = insert_answering(s);
	if (!err)
		x->made = true;
	if (!err || (err == -EEXIST && adopt(s))) {
		x->reason = REASON_NONE;
		return 1;
	}
	if (err == -EEXIST && x->search)
		return 0;
	x->reason = REASON_FLOW_TABLE_FULL;
	return 1;
}

/*
 * Reserves the answering entry; where addresses are translated this is what allocates the port. ABSENT when it needed not to be
 * made.
 */
__noinline int reserve(bool search, bool held)
{
	struct port_search x = { .s = run_scratch(), .reason = REASON_SNAT_PORTS_EXHAUSTED, .search = search, .held = held };
	__u32 tries = 1;

	if (!x.s)
		return REASON_INTERNAL;
	if (search)
		tries = 1 + LIMIT_PORT_TRIES + (takes_port(&x.s->other) && x.s->spare_ports ? LIMIT_SPARE_TRIES : 0);
	bpf_loop(tries, port_step, &x, 0);
	return x.reason || x.made ? x.reason : ABSENT;
}

/* What a flow that is over held the port for, its consumer has come back: the new flow gets the same one, first of all. */
static __always_inline bool succeed(struct scratch *s)
{
	struct flow *e = &s->open, *o = &s->other, *old = copy_flow(&e->key, &s->own);

	if (!old || !(s->own.flags & (FLOW_DEAD | FLOW_EXPIRED)) || !holds_port(&s->own))
		return false;
	if (!shows_client(e)) {
		e->sport = s->own.sport;
		o->key.dport = e->sport;
	}
	remove_flow(old);
	return true;
}

/* Takes back an answering entry that was just made; another may have removed it already. */
static __always_inline __u64 unmake(struct scratch *s)
{
	struct flow *there = copy_flow(&s->other.key, &s->own);

	if (!there || s->own.id != s->other.id || !take_flow(there, s->other.id))
		return 0;
	bpf_map_delete_elem(&flows, &s->other.key);
	return 1;
}

/* Makes both entries, the answering one first. Returns a reason; made is how many were made that stay. */
static __always_inline int insert_both(struct scratch *s, __u64 *made, __u64 *ports)
{
	struct flow *e = &s->open, *there;
	bool search, held = false, reserved;
	int reason, err;

	if (key_view(&e->key) == VIEW_PROVIDER && s->packet.held)
		held = succeed(s);
	search = (key_view(&e->key) == VIEW_PROVIDER && !shows_client(e)) || e->flags & FLOW_SOURCE_TAGGED ||
		   e->next == NEXT_HOST || key_view(&e->key) == VIEW_HOST;
	reason = reserve(search, held);
	reserved = reason == REASON_NONE;
	if (!reserved && reason != ABSENT)
		return reason;
	*made = *ports = reserved;
	err = bpf_map_update_elem(&flows, &e->key, e, BPF_NOEXIST);
	if (!err)
		*made += 1;
	if (err == -EEXIST) {
		there = bpf_map_lookup_elem(&flows, &e->key);
		if (there && there->id == e->id) {
			__sync_fetch_and_add(&there->packets, e->packets);
			__sync_fetch_and_add(&there->bytes, e->bytes);
			err = 0;
		}
	}
	if (!err) {
		if (reserved)
			emit_flow(e, EVENT_OPEN);
		return REASON_NONE;
	}
	if (reserved && unmake(s))
		*made = *ports = 0;
	return REASON_FLOW_TABLE_FULL;
}

/* Makes a flow that is let in, if there is room for it. */
__noinline int create(void)
{
	struct scratch *s = run_scratch();
	struct charge c;
	__u64 made = 0, ports = 0;
	int reason;

	if (!s)
		return REASON_INTERNAL;
	s->open.reverse_view = s->other.key.view;
	s->other.reverse_view = s->open.key.view;
	s->spare_ports = 0;
	tcp_begin(s);
	reason = charge(s, &c);
	if (!reason) {
		reason = insert_both(s, &made, &ports);
		if (reason && c.connection)
			refund_rates(s, c.connection);
	}
	refund(&c, 2 - made, 1 - ports);
	return reason;
}

/* May the ENI here have a new flow? One whose log must have every flow, only while there is a log. Probes are in none. */
static __always_inline bool log_takes(const struct scratch *s, const struct eni *eni)
{
	const __u64 *until;
	__u32 zero = 0;

	if (!(eni->flags & ENI_STRICT_LOG) || key_view(&s->open.key) == VIEW_HOST)
		return true;
	until = bpf_map_lookup_elem(&log_ready, &zero);
	return until && s->packet.now <= *until;
}

/* Makes a flow that was decided on. Leaves the new entry in s->own, as if it had been found. */
static __always_inline int make_flow(struct __sk_buff *skb, struct run *r)
{
	struct scratch *s = r->s;
	int reason;

	s->open.reverse_view = s->other.key.view;
	s->other.reverse_view = s->open.key.view;
	s->open.mtu = flow_path(&s->open);
	s->other.mtu = s->open.mtu;
	reason = misfit(skb, r, &s->open);
	if (reason)
		return reason;
	if (s->packet.hook != HOOK_WORKLOAD)
		r->eni = find_eni(s->packet.dest_vpc, s->packet.daddr);
	if (!r->eni)
		return REASON_NOT_HERE;
	if (!log_takes(s, r->eni))
		return REASON_LOG_UNAVAILABLE;
	reason = create();
	if (reason)
		return reason;
	__builtin_memcpy(&s->own, &s->open, sizeof(s->own));
	return REASON_NONE;
}

/* A packet without an entry: may it open a flow? */
static __noinline int open_flow(struct __sk_buff *skb, struct run *r)
{
	int reason;

	draft(r->s, r->config);
	reason = decide(r->s, r->config, false);
	return reason ? reason : make_flow(skb, r);
}

/* The same of the host's own: only a probe may. */
static __noinline int open_probe(struct __sk_buff *skb, struct run *r)
{
	int reason;

	draft(r->s, r->config);
	reason = decide_probe(r->s, false);
	return reason ? reason : make_flow(skb, r);
}

#endif
