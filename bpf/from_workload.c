//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The send half: tcx ingress on the host side of every workload's veth. Decision 0003, "from_workload". */

/* The workload's ARP. The verdict's reason; p->ask says when there is something to answer. */
static __always_inline int parse_arp(struct __sk_buff *skb, struct packet *p, const struct eni *eni, __u32 own)
{
	struct arp a;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &a, sizeof(a)) || a.hardware != bpf_htons(1) ||
	    a.protocol != bpf_htons(ETH_P_IP) || a.hardware_len != 6 || a.protocol_len != 4 ||
	    (a.operation != bpf_htons(1) && a.operation != bpf_htons(2)))
		return REASON_MALFORMED;
	if (!mac_equal(a.sender_mac, eni->mac) || (a.sender && a.sender != own))
		return REASON_SPOOFED_ADDRESS;
	if (a.operation == bpf_htons(2) || a.target == own)
		return REASON_ANSWERED;
	if (!a.sender)
		return REASON_SPOOFED_ADDRESS;
	p->saddr = a.sender;
	p->daddr = a.target;
	p->ask = ASK_ARP;
	return REASON_ANSWERED;
}

/* From the frame to a flow key, or a reason. */
static __always_inline int parse_workload(struct __sk_buff *skb, struct run *r, const struct link *link)
{
	struct packet *p = &r->s->packet;
	const struct vpc_addr *where;
	const struct eni *eni;
	struct ethernet h;
	int reason;

	if (!link)
		return REASON_UNKNOWN_LINK;
	where = &link->at;
	eni = &link->eni;
	p->source_vpc = where->vpc;
	p->dest_vpc = where->vpc;
	p->view = VIEW_WORKLOAD;
	if (load_header(skb, 0, &h))
		return REASON_MALFORMED;
	if (!mac_equal(h.source, eni->mac))
		return REASON_SPOOFED_MAC;
	if (skb->vlan_present)
		return REASON_NOT_IP;
	if (h.type == bpf_htons(ETH_P_IPV6) && eni->families & FAMILY_IPV6) {
		reason = parse_ipv6(skb, r->s, r->config, where);
	} else {
		if (!(eni->families & FAMILY_IPV4))
			return REASON_NOT_IP;
		if (h.type == bpf_htons(ETH_P_ARP))
			return parse_arp(skb, p, eni, where->addr);
		if (h.type != bpf_htons(ETH_P_IP))
			return REASON_NOT_IP;
		reason = parse_ipv4(skb, r->s, where->addr);
	}
	if (!reason && p->later)
		reason = recall_fragment(p, p->dest_vpc);
	make_key(r->s, p->dest_vpc); /* its own, or the client's */
	return reason;
}

/* Refused: TCP that has no flow, or no longer, learns it by a RST, and what is too big by an ICMP error. */
static __noinline int refuse_workload(struct __sk_buff *skb, struct run *r, int reason)
{
	struct packet *p = &r->s->packet;
	struct eni *eni = r->eni;
	int failed = 1;

	if (!eni)
		return drop(p, reason);
	if (reason == REASON_ANSWERED && p->ask == ASK_ARP)
		failed = answer_arp(skb, p, eni);
	else if (reason == REASON_ANSWERED && p->ask == ASK_NEIGHBOUR)
		failed = answer_neighbour(skb, r->s, eni);
	else if (reason == REASON_ANSWERED && p->ask == ASK_ROUTER)
		failed = answer_router(skb, r->s, eni, r->config->tunnel_mtu - 28);
	else if (p->later)
		return drop(p, reason);
	else if (reason == REASON_TOO_BIG)
		failed = p->ipv6 ? answer_too_big6(skb, r->s, eni, r->config->mesh, r->mtu) : answer_too_big(skb, r->s, eni, r->mtu - 28);
	else if (reason == REASON_NO_FLOW && p->protocol == IPPROTO_TCP && p->tcp_flags & TCP_RST)
		p->quiet = 1; /* how a socket that is not there answers: nothing was refused that anybody wanted */
	else if ((reason == REASON_NO_FLOW || reason == REASON_FLOW_REVOKED) && p->protocol == IPPROTO_TCP &&
		 !(p->tcp_flags & TCP_RST)) {
		if (reset_allowed(eni->number))
			failed = answer_reset(skb, p, eni, r->config->mesh);
		else
			lose(LOSS_RESETS, 1);
	}
	if (failed)
		return drop(p, reason);
	pass(p, reason, skb->ifindex, NEXT_NONE);
	return bpf_redirect(skb->ifindex, 0);
}

SEC("tc")
int from_workload(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct run r = {};
	struct link *link;
	struct packet *p;
	int reason;

	if (!begin(&r, HOOK_WORKLOAD))
		return TC_ACT_SHOT;
	p = &r.s->packet;
	measure(skb, p, ETH_HLEN, 0);
	link = bpf_map_lookup_elem(&links, &ifindex);
	if (link) {
		r.eni = &link->eni;
		p->eni = link->eni.number;
	}
	reason = check_config(&r);
	if (!reason)
		reason = parse_workload(skb, &r, link);
	count(p, p->eni, REASON_NONE);
	if (!reason)
		reason = established(skb, &r);
	if (reason == ABSENT)
		reason = opens(p) ? open_flow(skb, &r) : REASON_NO_FLOW;
	if (!reason && p->fragment && !p->later)
		reason = remember_fragment();
	if (!reason && clamp_mss(skb, r.s, transport_at(p), link_mss(r.mtu, p->ipv6)))
		reason = REASON_INTERNAL;
	if (!reason && r.s->own.proxy && !p->about && proxy_answer(skb, r.s))
		reason = REASON_INTERNAL;
	if (!reason && change_error(skb, r.s))
		reason = REASON_INTERNAL;
	if (reason)
		return refuse_workload(skb, &r, reason);
	switch (r.s->own.next) {
	case NEXT_TUNNEL:
		return deliver_tunnel(skb, &r);
	case NEXT_LOCAL:
		return deliver_local(skb, &r);
	case NEXT_HOST:
		return deliver_host(skb, &r);
	}
	return drop(p, REASON_INTERNAL);
}
