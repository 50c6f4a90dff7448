/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Security group rules: a set allows when any of its rules does. */
#ifndef CULVERT_RULES_H
#define CULVERT_RULES_H

struct rule_query {
	const struct rule_set *set;
	__u32 addr;			/* net; the peer's */
	__u32 groups[LIMIT_GROUPS];	/* the peer's */
	__u16 port;			/* host order; 0 for ICMP */
	__u16 protocol;
	__u32 rule;			/* out: id of the rule that matched */
	__u32 matched;
};

/* A peer known by its address only. */
static __always_inline void query_addr(struct rule_query *q, __u32 addr)
{
	q->addr = addr;
	__builtin_memset(q->groups, 0, sizeof(q->groups));
}

/* A peer that is an ENI of a VPC: its groups are what the table of addresses says. */
static __always_inline void query_peer(struct rule_query *q, __u32 addr, const struct address *a)
{
	query_addr(q, addr);
	if (a)
		__builtin_memcpy(q->groups, a->groups, sizeof(q->groups));
}

static __always_inline bool in_group(const struct rule_query *q, __u32 group)
{
	return q->groups[0] == group || q->groups[1] == group || q->groups[2] == group || q->groups[3] == group ||
	       q->groups[4] == group;
}

/* One step of bpf_loop; 1 ends it. */
static long rule_step(__u32 i, struct rule_query *q)
{
	const struct rule *rule;

	if (i >= LIMIT_RULES)
		return 1;
	rule = &q->set->rules[i];
	if (rule->protocol != 256 && rule->protocol != q->protocol)
		return 0;
	if (q->protocol != IPPROTO_ICMP && (q->port < rule->port_low || q->port > rule->port_high))
		return 0;
	if (rule->group ? !in_group(q, rule->group) : (q->addr & rule->mask) != rule->addr)
		return 0;
	q->rule = rule->id;
	q->matched = 1;
	return 1;
}

/* A set that is not there allows nothing. */
static __noinline int rules_allow(struct rule_query *q, __u32 id)
{
	__u32 zero = 0, count;
	void *inner;

	q->matched = 0;
	inner = bpf_map_lookup_elem(&rule_sets, &id);
	if (!inner)
		return 0;
	q->set = bpf_map_lookup_elem(inner, &zero);
	if (!q->set)
		return 0;
	count = q->set->count;
	bpf_loop(count < LIMIT_RULES ? count : LIMIT_RULES, rule_step, q, 0);
	return q->matched;
}

#endif
