//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * The node's own ways: from_host, tcx ingress on culvert-dp, lets answers of the resolver and probes of targets reach workloads,
 * and what the agent tells other nodes' the tunnel; guard, tcx egress on culvert0, lets nothing into the tunnel but what these programs sent
 * there. Decision 0003, "from_host".
 */

static __always_inline int parse_host(struct __sk_buff *skb, struct run *r)
{
	struct packet *p = &r->s->packet;
	struct overlay from, to;
	struct ethernet h;

	p->quiet = 1;
	p->view = VIEW_HOST;
	if (bpf_skb_load_bytes(skb, 0, &h, sizeof(h)) || h.type != bpf_htons(ETH_P_IPV6) || skb->vlan_present)
		return REASON_HOST_NOT_ADMITTED;
	if (parse_overlay(skb, p, r->config->mesh, &from, &to))
		return REASON_HOST_NOT_ADMITTED;
	p->quiet = 0;
	if (is_icmp(p->protocol) || p->fragment || from.vpc || from.tag || from.addr != bpf_htonl(r->config->node) ||
	    (to.vpc ? to.tag & ~TAG_IPV4 : !between_nodes(&from, &to)))
		return REASON_HOST_NOT_ADMITTED;
	overlay_family(p, !to.tag);
	if (parse_transport(skb, p, p->l3 + sizeof(struct ipv6)))
		return REASON_HOST_NOT_ADMITTED;
	if (!to.vpc)
		return is_message(p) ? REASON_NONE : REASON_HOST_NOT_ADMITTED;
	make_key(r->s, to.vpc);
	return REASON_NONE;
}

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	struct run r = {};
	bool probing = skb->mark == MARK_PROBE;
	struct packet *p;
	int reason;

	skb->mark = 0; /* it is the host's, and no workload's */
	if (!begin(&r, HOOK_HOST))
		return TC_ACT_SHOT;
	p = &r.s->packet;
	measure(skb, p, ETH_HLEN, 20);
	reason = check_config(&r);
	if (!reason)
		reason = parse_host(skb, &r);
	count(p, 0, REASON_NONE);
	if (!reason && !p->dest_vpc)
		return send_message(skb, &r);
	if (!reason)
		reason = established(skb, &r);
	if (reason == ABSENT)
		reason = probing ? open_probe(skb, &r) : REASON_HOST_NOT_ADMITTED;
	if (reason)
		return drop(p, reason);
	return deliver_workload(skb, &r);
}

SEC("tc")
int guard(struct __sk_buff *skb)
{
	struct packet p;
	bool ours = (skb->mark ^ MARK_TUNNEL) < LANES; /* a workload's arrive with mark 0: only these programs set another */

	if (ours && !sum_misplaced(skb))
		return TC_ACT_OK;
	__builtin_memset(&p, 0, sizeof(p)); /* what it leaves between fields too: Linux 6.1 wants all that another function may read */
	p.hook = HOOK_HOST;
	p.packets = 1;
	p.quiet = 1;
	measure(skb, &p, tunnel_l2, 20);
	count(&p, 0, REASON_NONE);
	return drop(&p, ours ? REASON_MALFORMED : REASON_HOST_NOT_ADMITTED);
}
