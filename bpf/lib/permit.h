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
	__u64 now = p->now + (p->hook == HOOK_LOCAL); /* the sender's half has this packet's time in its id already */

	__builtin_memset(e, 0, sizeof(*e));
	__builtin_memset(o, 0, sizeof(*o));
	e->id = now << 8 | (bpf_get_smp_processor_id() & 0xff);
	e->last_ns = now;
	e->packets = p->packets;
	e->bytes = p->bytes;
	e->key = s->key;
	e->generation = config->generation;
	e->peer_vpc = p->dest_vpc;
	e->saddr = p->saddr;
	e->daddr = p->daddr;
	e->sport = p->sport;
	e->dport = p->dport;
	e->flags = FLOW_OPENING;
	e->tcp_flags = p->tcp_flags;
	e->tcp_state = p->protocol == IPPROTO_TCP ? TCP_SYN_SENT : TCP_NONE;
	o->tcp_state = e->tcp_state;
	e->hook = p->hook;
	e->idle_s = p->protocol == IPPROTO_TCP ? 350 : 120;

	o->id = e->id;
	o->last_ns = now;
	o->key.vpc = s->key.vpc;
	o->key.saddr = p->daddr;
	o->key.daddr = p->saddr;
	o->key.sport = is_icmp(p->protocol) ? p->sport : p->dport;
	o->key.dport = is_icmp(p->protocol) ? 0 : p->sport;
	o->key.protocol = p->protocol;
	o->generation = e->generation;
	o->peer_vpc = p->source_vpc;
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
	if (is_icmp(e->key.protocol) || e->key.dport != bpf_htons(53))
		return REASON_HOST_NOT_ADMITTED;
	if (e->key.protocol == IPPROTO_UDP) {
		e->idle_s = RESOLVER_IDLE;
		o->idle_s = RESOLVER_IDLE;
	}
	e->peer_vpc = 0;
	e->daddr = bpf_htonl(config->node);
	e->dport = port;
	o->peer_vpc = 0;
	o->key.saddr = e->daddr;
	o->key.sport = port;
	o->key.view = VIEW_HOST | (e->key.view & KEY_IPV6);
	pair_hooks(e, o, NEXT_HOST);
	return REASON_NONE;
}

static __always_inline int send_workload(struct scratch *s, bool judging)
{
	struct flow *e = &s->open, *o = &s->other;

	if (judging)
		return e->next == NEXT_HOST || e->flags & FLOW_SOURCE_TAGGED ? REASON_NO_DESTINATION : REASON_NONE;
	o->key.view = VIEW_LOCAL | (e->key.view & KEY_IPV6);
	pair_hooks(e, o, find_eni(e->key.vpc, e->key.daddr) ? NEXT_LOCAL : NEXT_TUNNEL);
	return REASON_NONE;
}

/* To an endpoint, or to a load balancer from its own VPC: the same but for whose groups they are. */
static __always_inline int send_endpoint(struct scratch *s, const struct eni *eni, const struct address *a,
					 struct rule_query *q, bool judging)
{
	struct flow *e = &s->open, *o = &s->other;
	const struct flow_key *k = &e->key;
	struct service_key key = { .vpc = k->vpc, .addr = k->daddr, .port = k->dport, .protocol = k->protocol };
	const struct service *service;
	const struct target *target;

	query_addr(q, k->vpc, k->saddr);
	__builtin_memcpy(q->groups, eni->groups, sizeof(q->groups));
	if (!rules_allow(q, a->rules))
		return a->type == ADDRESS_ENDPOINT ? REASON_ENDPOINT_GROUP : REASON_LB_GROUP_INGRESS;
	service = bpf_map_lookup_elem(&services, &key);
	if (!service)
		return REASON_NO_LISTENER;
	if (judging) {
		if (!(e->flags & FLOW_SOURCE_TAGGED) || service->connection != e->connection)
			return REASON_NO_LISTENER;
		return table_lists(service, e->daddr, e->dport) ? REASON_NONE : REASON_NO_TARGET;
	}
	target = pick_target(k, service);
	if (!target || !target->addr)
		return REASON_NO_TARGET;
	e->peer_vpc = service->provider_vpc;
	e->daddr = target->addr;
	e->dport = target->port;
	e->tag = service->tag;
	e->flags |= FLOW_SOURCE_TAGGED;
	e->connection = service->connection;
	e->idle_s = service->idle_s;
	o->peer_vpc = service->provider_vpc;
	o->key.saddr = target->addr;
	o->key.sport = target->port;
	o->key.tag = service->tag;
	o->key.view = VIEW_CONSUMER | (e->key.view & KEY_IPV6);
	o->connection = service->connection;
	o->idle_s = e->idle_s;
	pair_hooks(e, o, find_eni(service->provider_vpc, target->addr) ? NEXT_LOCAL : NEXT_TUNNEL);
	return REASON_NONE;
}

/* The send half: may this ENI open this flow, and where does it go? */
APART(decide_send, (struct scratch *s, const struct config *config, bool judging),
      s && config, (s, config, judging), REASON_INTERNAL)
{
	struct rule_query q = {};
	struct flow *e = &s->open;
	const struct flow_key *k = &e->key;
	const struct eni *eni = find_eni(k->vpc, k->saddr);
	const struct address *a;
	int reason = REASON_NONE;

	if (!eni || !(eni->families & family_of(k->view)) || (judging && eni->number != e->eni))
		return REASON_NOT_HERE;
	a = find_address(k->vpc, k->daddr);
	if (!a || !(a->families & family_of(k->view)) || k->daddr == k->saddr)
		return REASON_NO_DESTINATION;
	if (a->type == ADDRESS_RESOLVER) {
		reason = send_resolver(s, config, judging);
	} else if (a->type >= ADDRESS_WORKLOAD && a->type <= ADDRESS_LOAD_BALANCER) {
		query_peer(&q, k->vpc, k->daddr, a);
		q.family = key_family(k);
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
	e->account = eni->account;
	e->rule = q.rule;
	s->other.eni = eni->number;
	s->other.account = e->account; /* both entries are the same account's, whatever the row says by now */
	s->other.rule = q.rule;
	return REASON_NONE;
}

/* The answering entry of a receive half leads back the way the packet came; the target answers in its own family. */
static __always_inline void answer_way(struct flow *e, struct flow *o, const struct eni *eni, __u32 rule, bool ipv6)
{
	e->next = NEXT_WORKLOAD;
	e->eni = eni->number;
	e->rule = rule;
	o->next = e->hook == HOOK_LOCAL ? NEXT_LOCAL : NEXT_TUNNEL;
	o->hook = HOOK_WORKLOAD;
	o->eni = eni->number;
	o->rule = rule;
	o->key.view = VIEW_WORKLOAD | (ipv6 ? KEY_IPV6 : 0);
}

/* The receive half inside one VPC. */
APART(decide_local, (struct scratch *s, bool judging), s, (s, judging), REASON_INTERNAL)
{
	struct rule_query q = {};
	struct flow *e = &s->open;
	const struct flow_key *k = &e->key;
	const struct eni *eni;

	if (!judging && !opens(&s->packet))
		return REASON_NO_FLOW;
	eni = find_eni(k->vpc, k->daddr);
	if (!eni || !(eni->families & family_of(k->view)) || (judging && eni->number != e->eni))
		return REASON_NOT_HERE;
	if (!judging)
		s->packet.eni = eni->number;
	query_peer(&q, k->vpc, k->saddr, find_address(k->vpc, k->saddr));
	q.family = key_family(k);
	q.port = bpf_ntohs(k->dport);
	q.protocol = k->protocol;
	if (!rules_allow(&q, eni->ingress_rules))
		return REASON_GROUP_INGRESS;
	if (judging)
		return REASON_NONE;
	e->account = eni->account;
	s->other.account = e->account;
	answer_way(e, &s->other, eni, q.rule, k->view & KEY_IPV6);
	return REASON_NONE;
}

/* The three rule sets that a consumer's packet has to pass on the provider's node, then the target's own. */
static __noinline int provider_rules(struct rule_query *q, const struct flow *e, const struct grant *g,
				     const struct eni *eni, bool ipv6)
{
	const struct flow_key *k = &e->key;
	__u32 front;

	q->protocol = k->protocol;
	q->port = bpf_ntohs(g->dialed_port);
	query_addr(q, k->vpc, k->saddr);
	q->family = key_family(k);
	if (g->flags & GRANT_INSIDE)
		query_peer(q, k->vpc, k->saddr, find_address(k->vpc, k->saddr));
	else if (!rules_allow(q, g->admitted))
		return REASON_GRANT_SOURCE;
	if (!rules_allow(q, g->lb_rules))
		return REASON_LB_GROUP_INGRESS;
	q->port = bpf_ntohs(k->dport);
	q->family = ipv6 ? 6 : 4;
	query_peer(q, g->provider_vpc, k->daddr, find_address(g->provider_vpc, k->daddr));
	if (!rules_allow(q, g->lb_egress_rules))
		return REASON_LB_GROUP_EGRESS;
	front = shows_client(e) ? e->front : e->saddr;
	query_peer(q, g->provider_vpc, front, find_address(g->provider_vpc, front));
	if (!rules_allow(q, eni->ingress_rules))
		return REASON_GROUP_INGRESS;
	return REASON_NONE;
}

/* The client's family where the target has it, else the other. */
static __always_inline bool target_family(const struct eni *eni, __u8 view)
{
	return eni->families & family_of(view) ? view & KEY_IPV6 : !(view & KEY_IPV6);
}

/* Whom the target sees: the load balancer, or the client as the overlay has it, number and family bit included. */
static __always_inline void show_source(struct flow *e, bool client, bool ipv6)
{
	e->reverse_view = (client ? VIEW_CLIENT : VIEW_WORKLOAD) | (ipv6 ? KEY_IPV6 : 0);
	if (client) {
		e->tag = e->key.tag | (e->key.view & KEY_IPV6 ? 0 : TAG_IPV4);
		return;
	}
	e->saddr = e->front;
	e->front = 0;
}

/* The receive half of a connection: the grant decides, not the sender. */
APART(decide_provider, (struct scratch *s, bool judging), s, (s, judging), REASON_INTERNAL)
{
	struct rule_query q = {};
	struct flow *e = &s->open, *o = &s->other;
	const struct flow_key *k = &e->key;
	struct grant_key key = { .vpc = k->vpc, .tag = k->tag };
	struct grant_target_key target_key = { .vpc = k->vpc, .tag = k->tag, .addr = k->daddr, .port = k->dport };
	const struct grant *g = bpf_map_lookup_elem(&grants, &key);
	const struct grant_target *target;
	const struct eni *eni;
	bool ipv6, client;
	int reason;

	if (!g || (judging && g->connection != e->connection))
		return REASON_NO_GRANT;
	if (g->provider_vpc != e->peer_vpc)
		return REASON_BAD_OVERLAY;
	if (g->protocol != k->protocol)
		return REASON_TARGET_NOT_GRANTED;
	if (!judging && !opens(&s->packet))
		return REASON_NO_FLOW;
	target = bpf_map_lookup_elem(&grant_targets, &target_key);
	if (!target || (!judging && target->flags & GRANT_TARGET_DRAINING))
		return REASON_TARGET_NOT_GRANTED;
	if (!judging) {
		e->front = target->source;
		s->guaranteed_ports = target->ports;
	}
	eni = find_eni(g->provider_vpc, k->daddr);
	if (!eni || (judging && eni->number != e->eni))
		return REASON_NOT_HERE;
	client = g->flags & GRANT_CLIENT && eni->families & FAMILY_IPV6;
	ipv6 = judging ? e->reverse_view & KEY_IPV6 : client || target_family(eni, k->view);
	if (!(eni->families & (ipv6 ? FAMILY_IPV6 : FAMILY_IPV4)))
		return REASON_NOT_HERE;
	if (!judging)
		s->packet.eni = eni->number;
	if (!judging)
		show_source(e, client, ipv6);
	reason = provider_rules(&q, e, g, eni, ipv6);
	if (reason || judging)
		return reason;
	e->account = g->account;
	o->account = e->account;
	e->connection = g->connection;
	e->idle_s = g->idle_s;
	o->key.vpc = client ? k->vpc : g->provider_vpc;
	o->key.daddr = e->saddr;
	o->key.tag = e->tag;
	o->peer_vpc = client ? g->provider_vpc : k->vpc;
	o->tag = k->tag;
	o->flags = FLOW_DEST_TAGGED;
	o->connection = g->connection;
	o->idle_s = e->idle_s;
	proxy_draft(s, g);
	answer_way(e, o, eni, q.rule, ipv6);
	if (client)
		o->key.view = VIEW_CLIENT | KEY_IPV6;
	return REASON_NONE;
}

/* From the load balancer to a target: its egress rules, then the target's own. */
static __noinline int probe_rules(struct rule_query *q, const struct flow_key *k, __u32 source, const struct eni *eni, bool ipv6)
{
	const struct address *front = find_address(k->vpc, source);

	if (!front || front->type != ADDRESS_LOAD_BALANCER)
		return REASON_HOST_NOT_ADMITTED;
	q->protocol = k->protocol;
	q->port = bpf_ntohs(k->dport);
	q->family = ipv6 ? 6 : 4;
	query_peer(q, k->vpc, k->daddr, find_address(k->vpc, k->daddr));
	if (!rules_allow(q, front->egress_rules))
		return REASON_LB_GROUP_EGRESS;
	query_peer(q, k->vpc, source, front);
	return rules_allow(q, eni->ingress_rules) ? REASON_NONE : REASON_GROUP_INGRESS;
}

/*
 * The node's own probe of a target here. What a consumer's packet would be refused behind its grant, a probe is too. Refused, it
 * stands in the records as what it would have been.
 */
APART(decide_probe, (struct scratch *s, bool judging), s, (s, judging), REASON_INTERNAL)
{
	struct rule_query q = {};
	struct flow *e = &s->open, *o = &s->other;
	const struct flow_key *k = &e->key;
	struct probe_key key = { .vpc = k->vpc, .addr = k->daddr, .port = k->dport };
	const struct probe *probe;
	const struct eni *eni;
	__u32 source;
	int reason;
	bool ipv6;

	if (k->protocol != IPPROTO_TCP || (!judging && !opens(&s->packet)))
		return REASON_HOST_NOT_ADMITTED;
	probe = bpf_map_lookup_elem(&probes, &key);
	if (!probe)
		return REASON_HOST_NOT_ADMITTED;
	source = probe->source;
	eni = find_eni(k->vpc, k->daddr);
	if (!eni || (judging && (eni->number != e->eni || source != e->saddr)))
		return REASON_NOT_HERE;
	ipv6 = judging ? e->reverse_view & KEY_IPV6 : target_family(eni, k->view);
	if (!(eni->families & (ipv6 ? FAMILY_IPV6 : FAMILY_IPV4)))
		return REASON_NOT_HERE;
	if (!judging) {
		s->packet.eni = eni->number;
		s->packet.source_vpc = k->vpc;
		s->packet.saddr = source;
	}
	reason = probe_rules(&q, k, source, eni, ipv6);
	if (reason || judging)
		return reason;
	e->account = eni->account;
	o->account = e->account;
	e->peer_vpc = 0;
	o->peer_vpc = 0;
	e->saddr = source;
	o->key.daddr = source;
	answer_way(e, o, eni, q.rule, ipv6);
	o->next = NEXT_HOST;
	return REASON_NONE;
}

/* The same question for whichever half the opening entry belongs to. */
static __always_inline int decide(struct scratch *s, const struct config *config, bool judging)
{
	switch (key_view(&s->open.key)) {
	case VIEW_WORKLOAD:
		return decide_send(s, config, judging);
	case VIEW_LOCAL:
		return decide_local(s, judging);
	case VIEW_PROVIDER:
		return decide_provider(s, judging);
	case VIEW_HOST:
		return decide_probe(s, judging);
	default: /* nobody opens a flow toward a consumer */
		return REASON_NO_FLOW;
	}
}

#endif
