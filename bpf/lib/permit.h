/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Permission. Each half has one function that is asked twice: for a new flow, where it also chooses target and source,
 * and when the configuration's generation moved, where nothing is chosen again (decision 0003, "Established").
 * Both work on s->open; a new flow's s->other is filled beside it.
 */
#ifndef CULVERT_PERMIT_H
#define CULVERT_PERMIT_H

/* Both entries of a new flow as they are without any translation. */
static __always_inline void draft(struct scratch *s, const struct config *config)
{
	const struct packet *p = &s->packet;
	struct flow *e = &s->open, *o = &s->other;
	__u64 now = bpf_ktime_get_boot_ns();

	__builtin_memset(e, 0, sizeof(*e));
	__builtin_memset(o, 0, sizeof(*o));
	e->id = now << 8 | (bpf_get_smp_processor_id() & 0xff);
	e->created_ns = now;
	e->last_ns = now;
	e->packets = p->packets;
	e->bytes = p->bytes;
	e->key = s->key;
	e->generation = config->generation;
	e->source_vpc = p->source_vpc;
	e->dest_vpc = p->dest_vpc;
	e->saddr = p->saddr;
	e->daddr = p->daddr;
	e->sport = p->sport;
	e->dport = p->dport;
	e->flags = FLOW_OPENING;
	e->tcp_flags = p->tcp_flags;
	e->hook = p->hook;
	e->idle_s = p->protocol == IPPROTO_TCP ? 350 : 120;

	o->id = e->id;
	o->created_ns = now;
	o->last_ns = now;
	o->key.vpc = s->key.vpc;
	o->key.saddr = p->daddr;
	o->key.daddr = p->saddr;
	o->key.sport = p->protocol == IPPROTO_ICMP ? p->sport : p->dport;
	o->key.dport = p->protocol == IPPROTO_ICMP ? 0 : p->sport;
	o->key.protocol = p->protocol;
	o->generation = e->generation;
	o->source_vpc = e->dest_vpc;
	o->dest_vpc = e->source_vpc;
	o->saddr = o->key.saddr;
	o->daddr = o->key.daddr;
	o->sport = o->key.sport;
	o->dport = o->key.dport;
	o->idle_s = e->idle_s;
}

/* Which hook a packet enters at after the send half handed it on, and the other way round. */
static __always_inline void pair_hooks(struct flow *e, struct flow *o, __u8 next)
{
	e->next = next;
	o->next = NEXT_WORKLOAD;
	o->hook = next == NEXT_LOCAL ? HOOK_LOCAL : next == NEXT_HOST ? HOOK_HOST : HOOK_TUNNEL;
}

static __always_inline int send_resolver(struct scratch *s, const struct config *config, bool judging)
{
	struct flow *e = &s->open, *o = &s->other;
	__u16 port = bpf_htons(config->resolver_port ? config->resolver_port : 53);

	if (judging)
		return e->next == NEXT_HOST && e->dport == port ? REASON_NONE : REASON_NO_DESTINATION;
	if (e->key.protocol == IPPROTO_ICMP || e->key.dport != bpf_htons(53))
		return REASON_HOST_NOT_ADMITTED;
	e->dest_vpc = 0;
	e->daddr = bpf_htonl(config->node);
	e->dport = port;
	o->source_vpc = 0;
	o->key.saddr = e->daddr;
	o->key.sport = port;
	o->key.view = VIEW_HOST;
	pair_hooks(e, o, NEXT_HOST);
	return REASON_NONE;
}

static __always_inline int send_workload(struct scratch *s, bool judging)
{
	struct flow *e = &s->open, *o = &s->other;

	if (judging)
		return e->next == NEXT_HOST || e->flags & FLOW_SOURCE_TAGGED ? REASON_NO_DESTINATION : REASON_NONE;
	o->key.view = VIEW_LOCAL;
	pair_hooks(e, o, find_eni(e->key.vpc, e->key.daddr) ? NEXT_LOCAL : NEXT_TUNNEL);
	return REASON_NONE;
}

/* One target of the service, the same for every packet with these addresses and ports. */
static __always_inline struct target *pick_target(const struct flow_key *key, const struct service *service)
{
	__u32 table = service->table, size = service->table_size, slot;
	void *inner;

	if (!size)
		return NULL;
	inner = bpf_map_lookup_elem(&target_tables, &table);
	if (!inner)
		return NULL;
	slot = hash_key(key, 0) % size;
	return bpf_map_lookup_elem(inner, &slot);
}

static __always_inline int send_endpoint(struct scratch *s, const struct eni *eni, const struct address *a,
					 struct rule_query *q, bool judging)
{
	struct flow *e = &s->open, *o = &s->other;
	const struct flow_key *k = &e->key;
	struct service_key key = { .vpc = k->vpc, .addr = k->daddr, .port = k->dport, .protocol = k->protocol };
	const struct service *service;
	const struct target *target;

	query_addr(q, k->saddr);
	__builtin_memcpy(q->groups, eni->groups, sizeof(q->groups));
	if (!rules_allow(q, a->rules))
		return REASON_ENDPOINT_GROUP;
	service = bpf_map_lookup_elem(&services, &key);
	if (!service)
		return REASON_NO_LISTENER;
	if (judging)
		return e->flags & FLOW_SOURCE_TAGGED && service->connection == e->connection ? REASON_NONE
											    : REASON_NO_LISTENER;
	target = pick_target(k, service);
	if (!target || !target->addr)
		return REASON_NO_TARGET;
	e->dest_vpc = service->provider_vpc;
	e->daddr = target->addr;
	e->dport = target->port;
	e->tag = service->tag;
	e->flags |= FLOW_SOURCE_TAGGED;
	e->connection = service->connection;
	e->idle_s = service->idle_s;
	o->source_vpc = service->provider_vpc;
	o->key.saddr = target->addr;
	o->key.sport = target->port;
	o->key.tag = service->tag;
	o->key.view = VIEW_CONSUMER;
	o->connection = service->connection;
	o->idle_s = service->idle_s;
	pair_hooks(e, o, find_eni(service->provider_vpc, target->addr) ? NEXT_LOCAL : NEXT_TUNNEL);
	return REASON_NONE;
}

/* The send half: may this ENI open this flow, and where does it go? */
static __noinline int decide_send(struct scratch *s, const struct config *config, bool judging)
{
	struct rule_query q = {};
	struct flow *e = &s->open;
	const struct flow_key *k = &e->key;
	const struct eni *eni = find_eni(k->vpc, k->saddr);
	const struct address *a;
	int reason = REASON_NONE;

	if (!eni || (judging && eni->number != e->eni))
		return REASON_NOT_HERE;
	a = find_address(k->vpc, k->daddr);
	if (!a || k->daddr == k->saddr)
		return REASON_NO_DESTINATION;
	if (a->type == ADDRESS_RESOLVER) {
		reason = send_resolver(s, config, judging);
	} else if (a->type == ADDRESS_WORKLOAD || a->type == ADDRESS_ENDPOINT) {
		query_peer(&q, k->daddr, a);
		q.port = bpf_ntohs(k->dport);
		q.protocol = k->protocol;
		if (!rules_allow(&q, eni->egress_rules))
			return REASON_GROUP_EGRESS;
		reason = a->type == ADDRESS_WORKLOAD ? send_workload(s, judging)
						     : send_endpoint(s, eni, a, &q, judging);
	} else {
		reason = REASON_NO_DESTINATION;
	}
	if (reason || judging)
		return reason;
	e->eni = eni->number;
	e->rule = q.rule;
	s->other.eni = eni->number;
	s->other.eni_ifindex = eni->ifindex;
	s->other.rule = q.rule;
	return REASON_NONE;
}

/* The answering entry of a receive half leads back the way the packet came. */
static __always_inline void answer_way(struct flow *e, struct flow *o, const struct eni *eni, __u32 rule)
{
	e->next = NEXT_WORKLOAD;
	e->eni = eni->number;
	e->eni_ifindex = eni->ifindex;
	e->rule = rule;
	o->next = e->hook == HOOK_LOCAL ? NEXT_LOCAL : NEXT_TUNNEL;
	o->hook = HOOK_WORKLOAD;
	o->eni = eni->number;
	o->rule = rule;
	o->key.view = VIEW_WORKLOAD;
}

/* The receive half inside one VPC. */
static __noinline int decide_local(struct scratch *s, bool judging)
{
	struct rule_query q = {};
	struct flow *e = &s->open;
	const struct flow_key *k = &e->key;
	const struct eni *eni;

	if (!judging && !opens(&s->packet))
		return REASON_NO_FLOW;
	eni = find_eni(k->vpc, k->daddr);
	if (!eni || (judging && eni->number != e->eni))
		return REASON_NOT_HERE;
	if (!judging)
		s->packet.eni = eni->number;
	query_peer(&q, k->saddr, find_address(k->vpc, k->saddr));
	q.port = bpf_ntohs(k->dport);
	q.protocol = k->protocol;
	if (!rules_allow(&q, eni->ingress_rules))
		return REASON_GROUP_INGRESS;
	if (!judging)
		answer_way(e, &s->other, eni, q.rule);
	return REASON_NONE;
}

/* The three rule sets that a consumer's packet has to pass on the provider's node, then the target's own. */
static __noinline int provider_rules(struct rule_query *q, const struct flow *e, const struct grant *g,
				     const struct eni *eni)
{
	const struct flow_key *k = &e->key;

	q->protocol = k->protocol;
	q->port = bpf_ntohs(g->dialed_port);
	query_addr(q, k->saddr);
	if (!rules_allow(q, g->admitted))
		return REASON_GRANT_SOURCE;
	if (!rules_allow(q, g->lb_rules))
		return REASON_LB_GROUP_INGRESS;
	q->port = bpf_ntohs(k->dport);
	query_peer(q, k->daddr, find_address(g->provider_vpc, k->daddr));
	if (!rules_allow(q, g->lb_egress_rules))
		return REASON_LB_GROUP_EGRESS;
	query_peer(q, e->saddr, find_address(g->provider_vpc, e->saddr));
	if (!rules_allow(q, eni->ingress_rules))
		return REASON_GROUP_INGRESS;
	return REASON_NONE;
}

/* The receive half of a connection: the grant decides, not the sender. */
static __noinline int decide_provider(struct scratch *s, bool judging)
{
	struct rule_query q = {};
	struct flow *e = &s->open, *o = &s->other;
	const struct flow_key *k = &e->key;
	struct grant_key key = { .vpc = k->vpc, .tag = k->tag };
	struct grant_target_key target_key = { .vpc = k->vpc, .tag = k->tag, .addr = k->daddr, .port = k->dport };
	const struct grant *g = bpf_map_lookup_elem(&grants, &key);
	const struct grant_target *target;
	const struct eni *eni;
	int reason;

	if (!g || (judging && g->connection != e->connection))
		return REASON_NO_GRANT;
	if (g->provider_vpc != e->dest_vpc)
		return REASON_BAD_OVERLAY;
	if (g->protocol != k->protocol)
		return REASON_TARGET_NOT_GRANTED;
	if (!judging) {
		if (!opens(&s->packet))
			return REASON_NO_FLOW;
		target = bpf_map_lookup_elem(&grant_targets, &target_key);
		if (!target)
			return REASON_TARGET_NOT_GRANTED;
		e->saddr = target->source;
	}
	eni = find_eni(g->provider_vpc, k->daddr);
	if (!eni || (judging && eni->number != e->eni))
		return REASON_NOT_HERE;
	if (!judging)
		s->packet.eni = eni->number;
	reason = provider_rules(&q, e, g, eni);
	if (reason || judging)
		return reason;
	e->connection = g->connection;
	e->idle_s = g->idle_s;
	o->key.vpc = g->provider_vpc;
	o->key.daddr = e->saddr;
	o->tag = k->tag;
	o->flags = FLOW_DEST_TAGGED;
	o->connection = g->connection;
	o->idle_s = g->idle_s;
	answer_way(e, o, eni, q.rule);
	return REASON_NONE;
}

/* The same question for whichever half the opening entry belongs to. */
static __always_inline int decide(struct scratch *s, const struct config *config, bool judging)
{
	switch (s->open.key.view) {
	case VIEW_WORKLOAD:
		return decide_send(s, config, judging);
	case VIEW_LOCAL:
		return decide_local(s, judging);
	case VIEW_PROVIDER:
		return decide_provider(s, judging);
	default: /* nobody opens a flow toward a consumer, or from the host */
		return REASON_NO_FLOW;
	}
}

#endif
