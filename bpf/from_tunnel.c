//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * The receive half: from_tunnel, tcx ingress on culvert0, and receive_local, the tail of from_workload when both ends
 * are on this node. Same checks, same entries. Decision 0003, "Receive half".
 */

/* The tags say whose flow it is: exactly one side is tagged, or none inside one VPC; and both of one family. */
static __always_inline int overlay_view(struct packet *p, const struct overlay *from, const struct overlay *to)
{
	__u16 source = from->tag & ~TAG_IPV4, dest = to->tag & ~TAG_IPV4;

	p->tag = source | dest;
	if ((from->tag ^ to->tag) & TAG_IPV4 || (source && dest))
		return REASON_BAD_OVERLAY;
	if (source)
		p->view = VIEW_PROVIDER;
	else if (dest)
		p->view = VIEW_CONSUMER;
	else
		p->view = VIEW_LOCAL;
	if (p->view == VIEW_LOCAL && (from->vpc != to->vpc || !from->vpc))
		return REASON_BAD_OVERLAY;
	return overlay_family(p, !(from->tag & TAG_IPV4));
}

static __always_inline int parse_tunnel(struct __sk_buff *skb, struct run *r)
{
	struct packet *p = &r->s->packet;
	struct overlay from, to;
	int reason;

	reason = parse_overlay(skb, p, r->config->mesh, &from, &to);
	if (reason == REASON_PROTOCOL && p->protocol == PROBE_PROTOCOL)
		return REASON_ANSWERED; /* by the agent, which saw it before: decision 0013 */
	if (reason)
		return reason;
	if (!(from.vpc | to.vpc))
		return parse_message(skb, r, &from, &to);
	reason = overlay_view(p, &from, &to);
	if (!reason && p->fragment && !p->ipv6 && p->id > 0xffff)
		reason = REASON_MALFORMED;
	if (!reason)
		reason = check_fragment(skb, p);
	if (reason)
		return reason;
	if (p->fragment && pop_fragment_header(skb))
		return REASON_INTERNAL;
	if (p->fragment && !p->ipv6)
		p->bytes -= sizeof(struct ipv6_fragment);
	return parse_transport(skb, p, p->l3 + sizeof(struct ipv6));
}

/* Both ways in meet here. */
static __always_inline int receive(struct __sk_buff *skb, struct run *r, int reason)
{
	struct packet *p = &r->s->packet;
	__u32 vpc = p->view == VIEW_CONSUMER ? p->dest_vpc : p->source_vpc;

	count(p, 0, REASON_NONE);
	if (!reason && p->later)
		reason = recall_fragment(p, vpc);
	if (!reason) {
		make_key(r->s, vpc);
		reason = established(skb, r);
	}
	if (reason == ABSENT)
		reason = follows(p) ? REASON_NO_FLOW : open_flow(skb, r);
	if (!reason && p->fragment && !p->later)
		reason = remember_fragment();
	if (reason)
		return drop(p, reason);
	return deliver_workload(skb, r);
}

SEC("tc")
int from_tunnel(struct __sk_buff *skb)
{
	struct run r = {};
	struct packet *p;
	int reason;

	if (!begin(&r, HOOK_TUNNEL))
		return TC_ACT_SHOT;
	p = &r.s->packet;
	measure(skb, p, tunnel_l2, 20);
	reason = check_config(&r);
	if (!reason)
		reason = parse_tunnel(skb, &r);
	if (p->view != VIEW_HOST)
		return receive(skb, &r, reason);
	count(p, 0, REASON_NONE);
	return reason ? drop(p, reason) : deliver_message(skb, &r);
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
	return receive(skb, &r, REASON_NONE);
}
