/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* ICMP errors of IPv6, and those that change their family on the way (RFC 7915, 4.2 to 5.3). Decision 0012. */
#ifndef CULVERT_ERROR_H
#define CULVERT_ERROR_H

enum { ICMP_ERROR_STEPS = ICMPV6_ERROR_MOST / SUM_CHUNK };

/* The error in the other family, by its type and code. False: it has none there. */
static __always_inline bool map_error(const struct packet *p, struct icmp *i, __u32 rest)
{
	__u32 mtu;

	__builtin_memset(i, 0, sizeof(*i));
	if (p->ipv6) {
		i->type = ICMP_UNREACHABLE;
		switch (p->icmp_type) {
		case ICMPV6_TIME_EXCEEDED:
			i->type = ICMP_TIME_EXCEEDED;
			i->code = p->icmp_code;
			return true;
		case ICMPV6_TOO_BIG:
			i->code = ICMP_FRAG_NEEDED;
			mtu = rest < 88 ? 68 : rest - 20;
			i->sequence = bpf_htons(mtu > 0xffff ? 0xffff : mtu);
			return true;
		case ICMPV6_UNREACHABLE:
			i->code = p->icmp_code == 4 ? 3 : p->icmp_code == 1 || p->icmp_code > 4 ? 10 : 1;
			return true;
		}
		i->code = 2;
		return p->icmp_code == 1;
	}
	if (p->icmp_type == ICMP_TIME_EXCEEDED) {
		i->type = ICMPV6_TIME_EXCEEDED;
		i->code = p->icmp_code;
		return true;
	}
	if (p->icmp_type != ICMP_UNREACHABLE || p->icmp_code == 14)
		return false;
	i->type = ICMPV6_UNREACHABLE;
	switch (p->icmp_code) {
	case 2: /* protocol: the next header, at 6 */
		i->type = ICMPV6_PARAMETER_PROBLEM;
		i->code = 1;
		i->sequence = bpf_htons(6);
		break;
	case 3:
		i->code = 4;
		break;
	case ICMP_FRAG_NEEDED:
		i->type = ICMPV6_TOO_BIG;
		mtu = (rest & 0xffff) + 20;
		if (mtu < 1280)
			mtu = 1280;
		i->id = bpf_htons(mtu >> 16);
		i->sequence = bpf_htons(mtu);
		break;
	case 9:
	case 10:
	case 13:
	case 15:
		i->code = 1;
	}
	return true;
}

/* The sum over the bytes at the offset, behind a first part of it. */
static __always_inline bool sum_error(struct __sk_buff *skb, struct scratch *s, __u32 offset, __u32 length, __s64 sum)
{
	struct sum_ctx ctx = { .skb = skb, .s = s };

	s->total.at = offset;
	s->total.end = offset + length;
	s->total.sum = sum;
	bpf_loop(ICMP_ERROR_STEPS, sum_step, &ctx, 0);
	return s->total.end && s->total.at == s->total.end;
}

struct error4 {
	struct icmp icmp;
	struct ipv4 ip;
};

struct error6 {
	struct icmp icmp;
	struct ipv6 ip;
};

/* 6 → 4. The offset is that of the ICMP header, behind the IP header that the frame still has. */
APART(error_to_ipv4, (struct __sk_buff *skb, struct scratch *s, __u32 offset), s, (skb, s, offset), -1)
{
	struct packet *p = &s->packet;
	struct ipv6_fragment part = {};
	struct error6 was = {};
	struct error4 now = {};
	__u32 shrink = sizeof(was) - sizeof(now);
	__u16 length, check;
	__s64 sum;

	if (bpf_skb_load_bytes(skb, offset, &was, sizeof(was)))
		return -1;
	map_error(p, &now.icmp, (__u32)bpf_ntohs(was.icmp.id) << 16 | bpf_ntohs(was.icmp.sequence));
	length = bpf_ntohs(was.ip.payload) + 20;
	now.ip.fragment = bpf_htons(0x4000);
	if (was.ip.next_header == IPPROTO_FRAGMENT) {
		if (bpf_skb_load_bytes(skb, offset + sizeof(was), &part, sizeof(part)))
			return -1;
		shrink += sizeof(part);
		length -= sizeof(part);
		now.ip.fragment = bpf_htons(part.offset & bpf_htons(1) ? FRAGMENT_MORE : 0);
		now.ip.id = bpf_htons(bpf_ntohl(part.id));
	}
	now.ip.version_ihl = 0x45;
	now.ip.tos = bpf_ntohl(was.ip.version_class_label) >> 20;
	now.ip.length = bpf_htons(length);
	now.ip.ttl = was.ip.hop_limit;
	now.ip.protocol = p->about == IPPROTO_ICMPV6 ? IPPROTO_ICMP : p->about;
	now.ip.saddr = p->daddr;
	now.ip.daddr = p->saddr;
	sum = bpf_csum_diff(NULL, 0, (__u32 *)&now.ip, sizeof(now.ip), 0);
	if (sum < 0)
		return -1;
	now.ip.check = ~fold(sum);
	if (shrink > sizeof(was) - sizeof(now) ? bpf_skb_adjust_room(skb, -28, BPF_ADJ_ROOM_NET, 0)
					       : bpf_skb_adjust_room(skb, -20, BPF_ADJ_ROOM_NET, 0))
		return -1;
	p->length -= shrink;
	p->protocol = IPPROTO_ICMP;
	if (bpf_skb_store_bytes(skb, offset, &now, sizeof(now), 0) || !sum_error(skb, s, offset, p->length - 20, 0))
		return -1;
	check = ~fold(s->total.sum);
	return bpf_skb_store_bytes(skb, offset + 2, &check, sizeof(check), 0);
}

/* 4 → 6. The quote's addresses and the checksum come with finish_error6. */
APART(error_to_ipv6, (struct __sk_buff *skb, struct scratch *s, __u32 offset), s, (skb, s, offset), -1)
{
	struct packet *p = &s->packet;
	struct error4 was = {};
	struct error6 now = {};

	if (bpf_skb_load_bytes(skb, offset, &was, sizeof(was)))
		return -1;
	map_error(p, &now.icmp, (__u32)bpf_ntohs(was.icmp.id) << 16 | bpf_ntohs(was.icmp.sequence));
	now.ip.version_class_label = bpf_htonl(6 << 28 | (__u32)was.ip.tos << 20);
	now.ip.payload = bpf_htons(bpf_ntohs(was.ip.length) - 20);
	now.ip.next_header = p->about;
	now.ip.hop_limit = was.ip.ttl;
	if (bpf_skb_adjust_room(skb, sizeof(now) - sizeof(was), BPF_ADJ_ROOM_NET, 0))
		return -1;
	p->length += sizeof(now) - sizeof(was);
	p->protocol = IPPROTO_ICMPV6;
	p->quote = sizeof(now);
	return bpf_skb_store_bytes(skb, offset, &now, sizeof(now), 0);
}

/* Makes an error that is about to leave one of the family that its receiver speaks. */
static __always_inline int change_error(struct __sk_buff *skb, struct scratch *s)
{
	const struct packet *p = &s->packet;

	if (!p->about || !changes_family(p, &s->own))
		return 0;
	return p->ipv6 ? error_to_ipv4(skb, s, transport_at(p)) : error_to_ipv6(skb, s, transport_at(p));
}

/*
 * An ICMPv6 error that leaves with the header h, at the offset: what it quotes has the same addresses, turned round. The
 * checksum is over all of it, and computed anew.
 */
APART(finish_error6, (struct __sk_buff *skb, const struct packet *p, const struct flow *f, const struct ipv6 *h,
		      __u32 offset),
      p && f && h, (skb, p, f, h, offset), -1)
{
	__u32 zero = 0, length = p->length - 20, addresses[8];
	__u32 pseudo[3] = { f->saddr, f->daddr, bpf_htonl(IPPROTO_ICMPV6 << 16 | (length & 0xffff)) };
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	__u16 check = 0;
	__s64 sum;

	if (!s)
		return -1;
	__builtin_memcpy(addresses, h->daddr, 16);
	__builtin_memcpy(addresses + 4, h->saddr, 16);
	sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), 0);
	if (sum < 0 || bpf_skb_store_bytes(skb, offset + sizeof(struct icmp) + 8, addresses, sizeof(addresses), 0) ||
	    bpf_skb_store_bytes(skb, offset + 2, &check, sizeof(check), 0))
		return -1;
	if (!sum_error(skb, s, offset, length, sum))
		return -1;
	check = ~fold(s->total.sum);
	return bpf_skb_store_bytes(skb, offset + 2, &check, sizeof(check), 0);
}


#endif
