/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Counters, refusals, events and the one helper that ends a program. */
#ifndef CULVERT_EMIT_H
#define CULVERT_EMIT_H

static __always_inline void lose(__u32 what, __u64 packets)
{
	__u64 *n = bpf_map_lookup_elem(&losses, &what);

	if (n)
		*n += packets;
}

/* The first packet of a counter. A full map counts with ENI 0 rather than not at all. */
APART(count_first, (const struct packet *p, __u32 eni, __u16 reason), p, (p, eni, reason), 0)
{
	struct counter_key key = { .eni = eni, .reason = reason, .hook = p->hook };
	struct counter first = { .packets = p->packets, .bytes = p->bytes };
	struct counter *c;

	if (!bpf_map_update_elem(&counters, &key, &first, BPF_NOEXIST))
		return 0;
	c = bpf_map_lookup_elem(&counters, &key);
	if (!c) {
		lose(LOSS_COUNTERS, p->packets);
		key.eni = 0;
		c = bpf_map_lookup_elem(&counters, &key);
	}
	if (!c)
		return 0;
	c->packets += p->packets;
	c->bytes += p->bytes;
	return 0;
}

/* Counters are per CPU, so a plain addition is exact. */
static __always_inline void count(const struct packet *p, __u32 eni, __u16 reason)
{
	struct counter_key key = { .eni = eni, .reason = reason, .hook = p->hook };
	struct counter *c = bpf_map_lookup_elem(&counters, &key);

	if (!c) {
		count_first(p, eni, reason);
		return;
	}
	c->packets += p->packets;
	c->bytes += p->bytes;
}

enum { WAKE_BYTES = 65536 };	/* of events that nobody has read: the agent is woken at each multiple */

/*
 * The agent looks by itself ten times a second. To wake it for each event would cost more than the flow that it tells of. Another
 * CPU's event may come between this one and the look: so a few wake it, lest none does.
 */
static __always_inline void submit(struct event *e)
{
	__u64 unread = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);

	bpf_ringbuf_submit(e, unread >= WAKE_BYTES && unread % WAKE_BYTES < 4 * sizeof(*e) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

/* Of a flow that was opened or removed the time is that of its newest packet. */
APART(emit_flow, (const struct flow *f, __u8 kind), f, (f, kind), 0)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		lose(LOSS_EVENTS, 1);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time_ns = kind == EVENT_CLOSE ? bpf_ktime_get_boot_ns() : f->last_ns;
	e->flow_id = f->id;
	e->packets = f->packets;
	e->bytes = f->bytes;
	e->key = f->key;
	e->saddr = f->saddr;
	e->daddr = f->daddr;
	e->sport = f->sport;
	e->dport = f->dport;
	e->eni = f->eni;
	e->connection = f->connection;
	e->rule = f->rule;
	e->generation = f->generation;
	e->source_vpc = flow_source_vpc(f);
	e->dest_vpc = flow_dest_vpc(f);
	e->reason = REASON_FORWARDED;
	e->kind = kind;
	e->hook = f->hook;
	e->tcp_flags = f->tcp_flags;
	e->reverse_view = f->reverse_view;
	e->tcp_state = f->tcp_state;
	e->flags = f->flags;
	e->retransmits = f->retransmits;
	e->handshake = f->handshake;
	e->rtt = f->rtt;
	submit(e);
	return 0;
}

static __always_inline void emit_refusal(const struct packet *p, __u16 reason, __u64 now)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		lose(LOSS_EVENTS, 1);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time_ns = now;
	e->packets = p->packets;
	e->bytes = p->bytes;
	e->key.vpc = p->source_vpc;
	e->key.saddr = p->saddr;
	e->key.daddr = p->daddr;
	e->key.sport = p->sport;
	e->key.dport = p->dport;
	e->key.tag = p->tag;
	e->key.view = p->view | (p->ipv6 ? KEY_IPV6 : 0);
	e->key.protocol = p->protocol;
	e->eni = p->eni;
	e->source_vpc = p->source_vpc;
	e->dest_vpc = p->dest_vpc;
	e->reason = reason;
	e->kind = EVENT_REFUSED;
	e->hook = p->hook;
	e->tcp_flags = p->tcp_flags;
	submit(e);
}

/* Refusals aggregate in a bounded map: under a scan detail is lost, counts never. Only a new key raises an event. */
APART(record_refusal, (const struct packet *p, __u16 reason), p, (p, reason), 0)
{
	__u64 now = p->now ? p->now : bpf_ktime_get_boot_ns();
	struct refusal_key key = {
		.vpc = p->source_vpc,
		.dest_vpc = p->dest_vpc,
		.eni = p->eni,
		.saddr = p->saddr,
		.daddr = p->daddr,
		.dport = p->dport,
		.tag = p->tag,
		.reason = reason,
		.protocol = p->protocol,
		.hook = p->hook | (p->ipv6 ? KEY_IPV6 : 0),
	};
	struct refusal first = {
		.packets = p->packets,
		.bytes = p->bytes,
		.first_ns = now,
		.last_ns = now,
		.sport = p->sport,
	};
	struct refusal *old = bpf_map_lookup_elem(&refusals, &key);

	if (!old) {
		if (!bpf_map_update_elem(&refusals, &key, &first, BPF_NOEXIST)) {
			emit_refusal(p, reason, now);
			return 0;
		}
		old = bpf_map_lookup_elem(&refusals, &key);
		if (!old) {
			lose(LOSS_REFUSALS, p->packets);
			return 0;
		}
	}
	__sync_fetch_and_add(&old->packets, p->packets);
	__sync_fetch_and_add(&old->bytes, p->bytes);
	old->last_ns = now;
	return 0;
}

/* The end of every program: one reason counted, the outcome left behind. Returns the verdict. */
APART(finish, (const struct packet *p, const struct outcome *o), p && o, (p, o), TC_ACT_SHOT)
{
	__u32 zero = 0;
	struct outcome *left = bpf_map_lookup_elem(&outcome, &zero);

	if (left)
		*left = *o;
	count(p, p->eni, o->reason);
	if (o->reason > REASON_NODES_OWN && o->reason != REASON_NOT_IP && !p->quiet)
		record_refusal(p, o->reason);
	return o->verdict;
}

static __always_inline int drop(const struct packet *p, __u32 reason)
{
	struct outcome o = { .verdict = TC_ACT_SHOT, .reason = reason };

	return finish(p, &o);
}

static __always_inline int pass(const struct packet *p, __u32 reason, __u32 ifindex, __u32 next)
{
	struct outcome o = { .verdict = TC_ACT_REDIRECT, .reason = reason, .ifindex = ifindex, .next = next };

	return finish(p, &o);
}

#endif
