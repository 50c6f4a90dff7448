//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * The node's own ways: from_host, tcx ingress on culvert-dp, lets answers of the resolver reach workloads; guard, tcx
 * egress on culvert0, lets nothing into the tunnel but what from_workload sent there. Decision 0003, "from_host".
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
	if (p->protocol == IPPROTO_ICMP || from.vpc || from.tag || from.addr != bpf_htonl(r->config->node) || !to.vpc ||
	    to.tag != TAG_IPV4)
		return REASON_HOST_NOT_ADMITTED;
	if (parse_transport(skb, p, p->l3 + sizeof(struct ipv6)))
		return REASON_HOST_NOT_ADMITTED;
	make_key(r->s, to.vpc);
	return REASON_NONE;
}

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	struct run r = {};
	struct packet *p;
	int reason;

	if (!begin(&r, HOOK_HOST))
		return TC_ACT_SHOT;
	p = &r.s->packet;
	measure(skb, p, ETH_HLEN, 20);
	reason = check_config(&r);
	if (!reason)
		reason = parse_host(skb, &r);
	count(p, 0, REASON_NONE);
	if (!reason)
		reason = established(skb, &r);
	if (reason == ABSENT)
		reason = REASON_HOST_NOT_ADMITTED;
	if (reason)
		return drop(p, reason);
	return deliver_workload(skb, &r, true);
}

SEC("tc")
int guard(struct __sk_buff *skb)
{
	struct packet p = { .hook = HOOK_HOST, .packets = 1, .quiet = 1 };

	if (skb->mark == MARK_TUNNEL)
		return TC_ACT_OK;
	measure(skb, &p, tunnel_l2, 20);
	count(&p, 0, REASON_NONE);
	return drop(&p, REASON_HOST_NOT_ADMITTED);
}
