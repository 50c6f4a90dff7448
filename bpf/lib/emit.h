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

/* Counters are per CPU, so a plain addition is exact. A full map counts with ENI 0 rather than not at all. */
static __noinline int count(const struct packet *p, __u32 eni, __u16 reason)
{
	struct counter_key key = { .eni = eni, .reason = reason, .hook = p->hook };
	struct counter first = { .packets = p->packets, .bytes = p->bytes };
	struct counter *c = bpf_map_lookup_elem(&counters, &key);

	if (!c) {
		if (!bpf_map_update_elem(&counters, &key, &first, BPF_NOEXIST))
			return 0;
		c = bpf_map_lookup_elem(&counters, &key);
	}
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

static __noinline int emit_flow(const struct flow *f, __u8 kind)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		lose(LOSS_EVENTS, 1);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time_ns = kind == EVENT_REMOVED ? f->last_ns : bpf_ktime_get_boot_ns();
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
	e->source_vpc = f->source_vpc;
	e->dest_vpc = f->dest_vpc;
	e->reason = REASON_FORWARDED;
	e->kind = kind;
	e->hook = f->hook;
	e->tcp_flags = f->tcp_flags;
	e->flags = f->flags;
	bpf_ringbuf_submit(e, 0);
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
	e->key.view = p->view;
	e->key.protocol = p->protocol;
	e->eni = p->eni;
	e->source_vpc = p->source_vpc;
	e->dest_vpc = p->dest_vpc;
	e->reason = reason;
	e->kind = EVENT_REFUSED;
	e->hook = p->hook;
	e->tcp_flags = p->tcp_flags;
	bpf_ringbuf_submit(e, 0);
}

/* Refusals aggregate in a bounded map: under a scan detail is lost, counts never. Only a new key raises an event. */
static __noinline int record_refusal(const struct packet *p, __u16 reason)
{
	__u64 now = bpf_ktime_get_boot_ns();
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
		.hook = p->hook,
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
static __noinline int finish(const struct packet *p, const struct outcome *o)
{
	__u32 zero = 0;
	struct outcome *left = bpf_map_lookup_elem(&outcome, &zero);

	if (left)
		*left = *o;
	count(p, p->eni, o->reason);
	if (o->reason > REASON_ANSWERED && o->reason != REASON_NOT_IPV4 && !p->quiet)
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
