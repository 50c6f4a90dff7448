/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The last step of a packet that goes on. s->own is its entry; the verdict comes back. */
#ifndef CULVERT_DELIVER_H
#define CULVERT_DELIVER_H

/* Into the tunnel, by the lane of the workload that sends: the guard lets it out by its mark. */
static __always_inline int deliver_tunnel(struct __sk_buff *skb, struct run *r)
{
	struct packet *p = &r->s->packet;
	__u32 ifindex = r->config->tunnel_ifindex;

	if (to_overlay(skb, p, &r->s->own, r->config->mesh))
		return drop(p, REASON_INTERNAL);
	skb->mark = MARK_TUNNEL ^ (r->eni ? r->eni->lane % LANES : 0);
	pass(p, REASON_FORWARDED, ifindex, NEXT_TUNNEL);
	return bpf_redirect(ifindex, 0);
}

/* To the node itself, through the pair culvert-dp, culvert-host: a query, or the answer to a probe. */
static __always_inline int deliver_host(struct __sk_buff *skb, struct run *r)
{
	struct packet *p = &r->s->packet;
	__u32 ifindex = r->config->host_ifindex;

	if (to_overlay(skb, p, &r->s->own, r->config->mesh) ||
	    write_ethernet(skb, r->config->host_mac, r->config->dp_mac, ETH_P_IPV6))
		return drop(p, REASON_INTERNAL);
	pass(p, r->s->own.flags & FLOW_OPENING ? REASON_FORWARDED : REASON_NODES_OWN, ifindex, NEXT_HOST);
	return bpf_redirect(ifindex, 0);
}

/* What an ICMP error quotes is changed by each half by itself. */
static __always_inline int rewrite_half(struct __sk_buff *skb, struct packet *p, const struct flow *f)
{
	if (rewrite_transport(skb, p, f, transport_at(p)) || (!p->wire6 && rewrite_network(skb, p, f)))
		return -1;
	p->wire = (struct tuple){ f->saddr, f->daddr, f->sport, f->dport };
	return 0;
}

/*
 * To the receive half on this node: counted here, and again there. The frame is rewritten once, when it is delivered: from what it
 * says to what the last entry makes of it.
 */
static __always_inline int deliver_local(struct __sk_buff *skb, struct run *r)
{
	struct packet *p = &r->s->packet;
	const struct flow *f = &r->s->own;

	if (p->about && rewrite_half(skb, p, f))
		return drop(p, REASON_INTERNAL);
	p->source_vpc = flow_source_vpc(f);
	p->dest_vpc = flow_dest_vpc(f);
	p->tag = f->tag;
	p->view = f->flags & FLOW_SOURCE_TAGGED ? VIEW_PROVIDER : f->flags & FLOW_DEST_TAGGED ? VIEW_CONSUMER : VIEW_LOCAL;
	pass(p, REASON_FORWARDED, 0, NEXT_LOCAL);
	follow(p, f);
	bpf_tail_call(skb, &programs, PROGRAM_RECEIVE_LOCAL);
	return drop(p, REASON_INTERNAL);
}

/* Offset of the layer 4 header of a packet that was made the workload's. */
static __always_inline __u32 delivered_at(const struct packet *p, bool ipv6)
{
	if (!ipv6)
		return p->l3 + sizeof(struct ipv4);
	return p->l3 + sizeof(struct ipv6) + (p->fragment ? sizeof(struct ipv6_fragment) : 0);
}

/* To the workload behind r->eni, past its veth: straight into its namespace. */
static __always_inline int deliver_workload(struct __sk_buff *skb, struct run *r)
{
	struct packet *p = &r->s->packet;
	const struct flow *f = &r->s->own;
	struct eni *eni = r->eni;
	int reason;
	bool ipv6 = f->reverse_view & KEY_IPV6;

	if (!eni)
		return drop(p, REASON_NOT_HERE);
	if (change_error(skb, r->s))
		return drop(p, REASON_INTERNAL);
	if (lacks_checksum(p, f) && give_checksum(skb, r->s, transport_at(p)))
		return drop(p, REASON_INTERNAL);
	if (ipv6 ? to_ipv6(skb, p, f, r->config->mesh) != 0
	    : p->wire6 ? to_ipv4(skb, p, f) != 0
		       : rewrite_transport(skb, p, f, transport_at(p)) || rewrite_network(skb, p, f) || rewrite_id(skb, p))
		return drop(p, REASON_INTERNAL);
	if (p->hook == HOOK_TUNNEL && /* what it sends takes the path back */
	    clamp_mss(skb, r->s, delivered_at(p, ipv6), link_mss(r->mtu, ipv6)))
		return drop(p, REASON_INTERNAL);
	p->wire6 = ipv6;
	if (f->proxy && !p->about) {
		reason = proxy_request(skb, r->s, r->config->mesh);
		if (reason)
			return drop(p, reason);
	}
	if (!p->l3 && bpf_skb_change_head(skb, ETH_HLEN, 0))
		return drop(p, REASON_INTERNAL);
	if (write_ethernet(skb, eni->mac, eni->gateway_mac, ipv6 ? ETH_P_IPV6 : ETH_P_IP))
		return drop(p, REASON_INTERNAL);
	pass(p, REASON_FORWARDED, eni->ifindex, NEXT_WORKLOAD);
	return bpf_redirect_peer(eni->ifindex, 0);
}

#endif
