/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What nodes' agents tell each other: datagrams between their host addresses. They have no flow and are nobody's traffic but
 * the nodes'; that the sender is the node that its address names, WireGuard has proved. Decision 0003, "Between nodes".
 */
#ifndef CULVERT_MESSAGE_H
#define CULVERT_MESSAGE_H

/* Are these the addresses of two nodes? */
static __always_inline bool between_nodes(const struct overlay *from, const struct overlay *to)
{
	return !(from->vpc | to->vpc | from->tag | to->tag) && from->addr && to->addr && from->addr != to->addr;
}

static __always_inline bool is_message(const struct packet *p)
{
	return p->protocol == IPPROTO_UDP && !p->fragment && p->sport == bpf_htons(NODE_PORT) && p->dport == bpf_htons(NODE_PORT);
}

/* A packet from the tunnel that is in no VPC. */
static __always_inline int parse_message(struct __sk_buff *skb, struct run *r, const struct overlay *from, const struct overlay *to)
{
	struct packet *p = &r->s->packet;
	int reason;

	p->view = VIEW_HOST;
	if (!between_nodes(from, to) || to->addr != bpf_htonl(r->config->node))
		return REASON_BAD_OVERLAY;
	overlay_family(p, true);
	if (p->fragment || p->protocol != IPPROTO_UDP)
		return REASON_HOST_NOT_ADMITTED;
	reason = parse_transport(skb, p, p->l3 + sizeof(struct ipv6));
	if (reason)
		return reason;
	if (!is_message(p))
		return REASON_HOST_NOT_ADMITTED;
	return message_allowed(bpf_ntohl(from->addr)) ? REASON_NONE : REASON_MESSAGE_RATE;
}

/* To the other node, by the lane of all who have none. */
static __always_inline int send_message(struct __sk_buff *skb, struct run *r)
{
	struct packet *p = &r->s->packet;
	__u32 ifindex = r->config->tunnel_ifindex, length = skb->gso_size ? skb->gso_size + 20 + p->header : p->length;

	if (length + 20 > LIMIT_MESSAGE)
		return drop(p, REASON_TOO_BIG);
	skb->mark = MARK_TUNNEL;
	pass(p, REASON_NODES_OWN, ifindex, NEXT_TUNNEL);
	return bpf_redirect(ifindex, 0);
}

/* To this node's agent. */
static __always_inline int deliver_message(struct __sk_buff *skb, struct run *r)
{
	struct packet *p = &r->s->packet;
	__u32 ifindex = r->config->host_ifindex;

	if ((!p->l3 && bpf_skb_change_head(skb, ETH_HLEN, 0)) ||
	    write_ethernet(skb, r->config->host_mac, r->config->dp_mac, ETH_P_IPV6))
		return drop(p, REASON_INTERNAL);
	pass(p, REASON_NODES_OWN, ifindex, NEXT_HOST);
	return bpf_redirect(ifindex, 0);
}

#endif
