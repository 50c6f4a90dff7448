/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Security group rules: a set allows when any of its rules does. */
#ifndef CULVERT_RULES_H
#define CULVERT_RULES_H

struct rule_query {
	__u32 vpc;			/* the peer's */
	__u32 addr;			/* net; the peer's */
	__u32 groups[LIMIT_GROUPS];	/* the peer's */
	__u16 port;			/* host order; rules_allow sets it for ICMP */
	__u8 protocol;
	__u8 family;			/* 4 or 6 */
	__u32 rule;			/* out: id of the rule that matched */
	__u32 matched;
};

/* A peer known by its address only. */
static __always_inline void query_addr(struct rule_query *q, __u32 vpc, __u32 addr)
{
	q->vpc = vpc;
	q->addr = addr;
	__builtin_memset(q->groups, 0, sizeof(q->groups));
}

/* A peer that is an ENI of a VPC: its groups are what the table of addresses says. */
static __always_inline void query_peer(struct rule_query *q, __u32 vpc, __u32 addr, const struct address *a)
{
	query_addr(q, vpc, addr);
	if (a)
		__builtin_memcpy(q->groups, a->groups, sizeof(q->groups));
}

static __always_inline bool in_group(const struct rule_query *q, __u32 group)
{
	return q->groups[0] == group || q->groups[1] == group || q->groups[2] == group || q->groups[3] == group ||
	       q->groups[4] == group;
}

/* A prefix is for packets of its family, and one of IPv6 for peers of its VPC. */
static __always_inline bool in_prefix(const struct rule_query *q, const struct rule *rule)
{
	return rule->family == q->family && (!rule->vpc || rule->vpc == q->vpc) && (q->addr & rule->mask) == rule->addr;
}

struct rule_walk {
	struct rule_query *query;
	const struct rule_set *set;
};

/* One step of bpf_loop; 1 ends it. */
static long rule_step(__u32 i, struct rule_walk *w)
{
	struct rule_query *q = w->query;
	const struct rule *rule;

	if (i >= LIMIT_RULES)
		return 1;
	rule = &w->set->rules[i];
	if (rule->protocol != 256 && rule->protocol != q->protocol)
		return 0;
	if (q->port < rule->port_low || q->port > rule->port_high)
		return 0;
	if (rule->group ? !in_group(q, rule->group) : !in_prefix(q, rule))
		return 0;
	q->rule = rule->id;
	q->matched = 1;
	return 1;
}

/* A set that is not there allows nothing. */
APART(rules_allow, (struct rule_query *q, __u32 id), q, (q, id), 0)
{
	struct rule_walk w = { .query = q };
	__u32 zero = 0, count;
	void *inner;

	if (is_icmp(q->protocol)) /* code 0; nothing else of ICMP opens a flow */
		q->port = (q->protocol == IPPROTO_ICMP ? ICMP_ECHO : ICMPV6_ECHO) << 8;
	q->matched = 0;
	inner = bpf_map_lookup_elem(&rule_sets, &id);
	if (!inner)
		return 0;
	w.set = bpf_map_lookup_elem(inner, &zero);
	if (!w.set)
		return 0;
	count = w.set->count;
	if (count && !rule_step(0, &w) && count > 1) /* most sets have one rule, or the first decides: spare the loop */
		bpf_loop(count < LIMIT_RULES ? count : LIMIT_RULES, rule_step, &w, 0);
	return q->matched;
}

#endif
