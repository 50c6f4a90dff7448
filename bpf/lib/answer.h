/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Packets made here and sent back to the workload: ARP, RST, packet-too-big. */
#ifndef CULVERT_ANSWER_H
#define CULVERT_ANSWER_H

/* A request for any address but the ENI's own is answered with the gateway MAC: everything is behind it. */
APART(answer_arp, (struct __sk_buff *skb, const struct packet *p, const struct eni *eni), p && eni, (skb, p, eni), -1)
{
	struct arp a = {
		.hardware = bpf_htons(1),
		.protocol = bpf_htons(ETH_P_IP),
		.hardware_len = 6,
		.protocol_len = 4,
		.operation = bpf_htons(2),
		.sender = p->daddr,
		.target = p->saddr,
	};

	__builtin_memcpy(a.sender_mac, eni->gateway_mac, 6);
	__builtin_memcpy(a.target_mac, eni->mac, 6);
	if (write_ethernet(skb, eni->mac, eni->gateway_mac, ETH_P_ARP))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &a, sizeof(a), 0);
}

/* The IPv4 header of an answer; its source is what the workload addressed. */
static __always_inline int answer_header(struct __sk_buff *skb, const struct packet *p, const struct eni *eni,
					 __u8 protocol, __u16 length)
{
	struct ipv4 h = {
		.version_ihl = 0x45,
		.length = bpf_htons(length),
		.fragment = bpf_htons(0x4000),
		.ttl = 64,
		.protocol = protocol,
		.saddr = p->daddr,
		.daddr = p->saddr,
	};
	__s64 sum = bpf_csum_diff(NULL, 0, (__u32 *)&h, sizeof(h), 0);

	if (sum < 0)
		return -1;
	h.check = ~fold(sum);
	if (write_ethernet(skb, eni->mac, eni->gateway_mac, ETH_P_IP))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &h, sizeof(h), 0);
}

/* Likewise IPv6. */
static __always_inline int answer_header6(struct __sk_buff *skb, const struct packet *p, const struct eni *eni, __u32 mesh,
					  __u8 protocol, __u16 payload)
{
	struct ipv6 h = {
		.version_class_label = bpf_htonl(6 << 28),
		.payload = bpf_htons(payload),
		.next_header = protocol,
		.hop_limit = 64,
	};

	overlay_write(h.saddr, mesh, p->dest_vpc, p->daddr, p->tag); /* what the workload addressed */
	overlay_write(h.daddr, mesh, p->source_vpc, p->saddr, 0);
	if (write_ethernet(skb, eni->mac, eni->gateway_mac, ETH_P_IPV6))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &h, sizeof(h), 0);
}

/*
 * Is the layer 4 checksum still to be computed by a device? No helper tells, but l4_csum_replace changes nothing then:
 * ask it to add something to the field and look.
 */
static __always_inline bool checksum_partial(struct __sk_buff *skb, __u32 check)
{
	__u16 probe = 0x1234, after = 0;

	if (bpf_skb_store_bytes(skb, check, &probe, sizeof(probe), 0) ||
	    bpf_l4_csum_replace(skb, check, 0, 0x1111, 0) || bpf_skb_load_bytes(skb, check, &after, sizeof(after)))
		return false;
	return after == probe;
}

/* A RST that the sender of this TCP packet believes. */
APART(answer_reset, (struct __sk_buff *skb, const struct packet *p, const struct eni *eni, __u32 mesh),
      p && eni, (skb, p, eni, mesh), -1)
{
	__u32 at = transport_at(p);
	struct tcp t = { .source = p->dport, .dest = p->sport, .offset = 5 << 4, .flags = TCP_RST };
	__u32 pseudo[3] = { p->daddr, p->saddr, bpf_htonl(IPPROTO_TCP << 16 | sizeof(t)) };
	__s64 sum;

	if (p->tcp_flags & TCP_ACK) {
		t.seq = bpf_htonl(p->ack);
	} else {
		t.ack = bpf_htonl(p->seq + p->length - 20 - p->header + !!(p->tcp_flags & TCP_SYN) +
				  !!(p->tcp_flags & TCP_FIN));
		t.flags |= TCP_ACK;
	}
	if (bpf_skb_change_tail(skb, at + sizeof(t), 0))
		return -1;
	sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), 0);
	if (sum < 0)
		return -1;
	if (checksum_partial(skb, at + 16)) {
		t.check = fold(sum);
	} else {
		sum = bpf_csum_diff(NULL, 0, (__u32 *)&t, sizeof(t), sum);
		if (sum < 0)
			return -1;
		t.check = ~fold(sum);
	}
	if (bpf_skb_store_bytes(skb, at, &t, sizeof(t), 0))
		return -1;
	return p->ipv6 ? answer_header6(skb, p, eni, mesh, IPPROTO_TCP, sizeof(t))
		       : answer_header(skb, p, eni, IPPROTO_TCP, 20 + sizeof(t));
}

/* The first bytes of a packet to s->quote, at most its 60. Returns their sum. */
static __always_inline __s64 quote_packet(struct __sk_buff *skb, struct scratch *s, __u32 length)
{
	__builtin_memset(s->quote, 0, sizeof(s->quote));
	if (bpf_skb_load_bytes(skb, ETH_HLEN, s->quote, length))
		return -1;
	return bpf_csum_diff(NULL, 0, (__u32 *)s->quote, sizeof(s->quote), 0);
}

/*
 * Packet-too-big. TCP is quoted with its whole fixed header, others with 8 bytes: the kernel refuses to cut a packet
 * before a checksum that is still to be computed.
 */
APART(answer_too_big, (struct __sk_buff *skb, struct scratch *s, const struct eni *eni, __u16 mtu),
      s && eni, (skb, s, eni, mtu), -1)
{
	const struct packet *p = &s->packet;
	struct icmp i = { .type = ICMP_UNREACHABLE, .code = ICMP_FRAG_NEEDED, .sequence = bpf_htons(mtu) };
	__u32 quote = p->protocol == IPPROTO_TCP ? 40 : 28;
	__s64 sum;

	sum = quote_packet(skb, s, quote);
	if (sum < 0)
		return -1;
	sum = bpf_csum_diff(NULL, 0, (__u32 *)&i, sizeof(i), sum);
	if (sum < 0)
		return -1;
	i.check = ~fold(sum);
	if (bpf_skb_change_tail(skb, ETH_HLEN + quote, 0) || bpf_skb_adjust_room(skb, 28, BPF_ADJ_ROOM_MAC, 0))
		return -1;
	if (bpf_skb_store_bytes(skb, ETH_HLEN + 20, &i, sizeof(i), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + 28, s->quote, quote, 0))
		return -1;
	return answer_header(skb, p, eni, IPPROTO_ICMP, 28 + quote);
}

/* The same of ICMPv6. What is IPv6 does not grow in the tunnel. */
APART(answer_too_big6, (struct __sk_buff *skb, struct scratch *s, const struct eni *eni, __u32 mesh, __u32 mtu),
      s && eni, (skb, s, eni, mesh, mtu), -1)
{
	const struct packet *p = &s->packet;
	struct icmp i = { .type = ICMPV6_TOO_BIG, .sequence = bpf_htons(mtu) };
	__u32 quote = p->protocol == IPPROTO_TCP ? 60 : 48;
	__u32 pseudo[3] = { p->daddr, p->saddr, bpf_htonl(IPPROTO_ICMPV6 << 16 | (8 + quote)) };
	__s64 sum = quote_packet(skb, s, quote);

	if (sum < 0)
		return -1;
	sum = bpf_csum_diff(NULL, 0, (__u32 *)&i, sizeof(i), sum);
	if (sum < 0)
		return -1;
	sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), sum);
	if (sum < 0)
		return -1;
	i.check = ~fold(sum);
	if (bpf_skb_change_tail(skb, ETH_HLEN + quote, 0) || bpf_skb_adjust_room(skb, 48, BPF_ADJ_ROOM_MAC, 0))
		return -1;
	if (bpf_skb_store_bytes(skb, ETH_HLEN + 40, &i, sizeof(i), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + 48, s->quote, quote, 0))
		return -1;
	return answer_header6(skb, p, eni, mesh, IPPROTO_ICMPV6, 8 + quote);
}

#endif
