//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * The receive half: from_tunnel, tcx ingress on culvert0, and receive_local, the tail of from_workload when both ends
 * are on this node. Same checks, same entries. Decision 0003, "Receive half".
 */

/* The tags say whose flow it is: exactly one side is tagged, or none inside one VPC. */
static __always_inline int overlay_view(struct packet *p, const struct overlay *from, const struct overlay *to)
{
	__u16 source = from->tag & ~TAG_IPV4, dest = to->tag & ~TAG_IPV4;

	p->tag = source | dest;
	if (!(from->tag & to->tag & TAG_IPV4) || (source && dest))
		return REASON_BAD_OVERLAY;
	if (source)
		p->view = VIEW_PROVIDER;
	else if (dest)
		p->view = VIEW_CONSUMER;
	else
		p->view = VIEW_LOCAL;
	if (p->view == VIEW_LOCAL && (from->vpc != to->vpc || !from->vpc))
		return REASON_BAD_OVERLAY;
	return REASON_NONE;
}

static __always_inline int parse_tunnel(struct __sk_buff *skb, struct run *r)
{
	struct packet *p = &r->s->packet;
	struct overlay from, to;
	int reason;

	reason = parse_overlay(skb, p, r->config->mesh, &from, &to);
	if (reason)
		return reason;
	reason = overlay_view(p, &from, &to);
	if (reason)
		return reason;
	return parse_transport(skb, p, p->l3 + sizeof(struct ipv6));
}

/* Both ways in meet here. */
static __always_inline int receive(struct __sk_buff *skb, struct run *r, int reason, bool overlay)
{
	struct packet *p = &r->s->packet;

	count(p, 0, REASON_NONE);
	if (!reason) {
		make_key(r->s, p->view == VIEW_CONSUMER ? p->dest_vpc : p->source_vpc);
		reason = established(skb, r);
	}
	if (reason == ABSENT)
		reason = open_flow(skb, r);
	if (reason)
		return drop(p, reason);
	return deliver_workload(skb, r, overlay);
}

SEC("tc")
int from_tunnel(struct __sk_buff *skb)
{
	struct run r = {};
	int reason;

	if (!begin(&r, HOOK_TUNNEL))
		return TC_ACT_SHOT;
	measure(skb, &r.s->packet, tunnel_l2, 20);
	reason = check_config(&r);
	if (!reason)
		reason = parse_tunnel(skb, &r);
	return receive(skb, &r, reason, true);
}

/* s->packet is as deliver_local left it. */
SEC("tc")
int receive_local(struct __sk_buff *skb)
{
	struct run r = {};
	__u32 zero = 0;

	r.s = bpf_map_lookup_elem(&scratch, &zero);
	r.config = bpf_map_lookup_elem(&config, &zero);
	if (!r.s || !r.config)
		return TC_ACT_SHOT;
	r.s->packet.hook = HOOK_LOCAL;
	r.s->packet.eni = 0;
	return receive(skb, &r, REASON_NONE, false);
}
