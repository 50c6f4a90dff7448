/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The last step of a packet that goes on. s->own is its entry; the verdict comes back. */
#ifndef CULVERT_DELIVER_H
#define CULVERT_DELIVER_H

/* Into the tunnel: the guard lets it out by its mark. */
static __always_inline int deliver_tunnel(struct __sk_buff *skb, struct run *r)
{
	struct packet *p = &r->s->packet;
	__u32 ifindex = r->config->tunnel_ifindex;

	if (to_overlay(skb, p, &r->s->own, r->config->mesh))
		return drop(p, REASON_INTERNAL);
	skb->mark = MARK_TUNNEL;
	pass(p, REASON_FORWARDED, ifindex, NEXT_TUNNEL);
	return bpf_redirect(ifindex, 0);
}

/* To the node itself, through the pair culvert-dp, culvert-host. */
static __always_inline int deliver_host(struct __sk_buff *skb, struct run *r)
{
	struct packet *p = &r->s->packet;
	__u32 ifindex = r->config->host_ifindex;

	if (to_overlay(skb, p, &r->s->own, r->config->mesh) ||
	    write_ethernet(skb, r->config->host_mac, r->config->dp_mac, ETH_P_IPV6))
		return drop(p, REASON_INTERNAL);
	pass(p, REASON_FORWARDED, ifindex, NEXT_HOST);
	return bpf_redirect(ifindex, 0);
}

/* To the receive half on this node: counted here, and again there. */
static __always_inline int deliver_local(struct __sk_buff *skb, struct run *r)
{
	struct packet *p = &r->s->packet;
	const struct flow *f = &r->s->own;

	if (rewrite_transport(skb, p, f, p->l3 + 20) || rewrite_network(skb, p, f))
		return drop(p, REASON_INTERNAL);
	follow(p, f);
	p->source_vpc = f->source_vpc;
	p->dest_vpc = f->dest_vpc;
	p->tag = f->tag;
	p->view = f->flags & FLOW_SOURCE_TAGGED ? VIEW_PROVIDER : f->flags & FLOW_DEST_TAGGED ? VIEW_CONSUMER : VIEW_LOCAL;
	pass(p, REASON_FORWARDED, 0, NEXT_LOCAL);
	bpf_tail_call(skb, &programs, PROGRAM_RECEIVE_LOCAL);
	return drop(p, REASON_INTERNAL);
}

/* To the workload behind r->eni, past its veth: straight into its namespace. */
static __always_inline int deliver_workload(struct __sk_buff *skb, struct run *r, bool overlay)
{
	struct packet *p = &r->s->packet;
	const struct flow *f = &r->s->own;
	struct eni *eni = r->eni;

	if (!eni)
		return drop(p, REASON_NOT_HERE);
	if (overlay ? from_overlay(skb, p, f) != 0
		    : rewrite_transport(skb, p, f, p->l3 + 20) || rewrite_network(skb, p, f))
		return drop(p, REASON_INTERNAL);
	if (!p->l3 && bpf_skb_change_head(skb, ETH_HLEN, 0))
		return drop(p, REASON_INTERNAL);
	if (write_ethernet(skb, eni->mac, eni->gateway_mac, ETH_P_IP))
		return drop(p, REASON_INTERNAL);
	pass(p, REASON_FORWARDED, eni->ifindex, NEXT_WORKLOAD);
	return bpf_redirect_peer(eni->ifindex, 0);
}

#endif
