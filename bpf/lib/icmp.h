/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * ICMP errors. One belongs to the flow of the packet that it quotes, in the direction in which that one was answered; its
 * quote is translated with it, so that whoever sent the packet finds it as it was. Decision 0012.
 */
#ifndef CULVERT_ICMP_H
#define CULVERT_ICMP_H

enum {
	ICMPV6_ERROR_MOST = 1280,	/* bytes of the packet; RFC 4443, 2.4 */
	ICMP_ERROR_MOST = ICMPV6_ERROR_MOST - 40,	/* what that is in the other family */
};

struct quote {
	struct icmp icmp;
	struct ipv4 ip;
	__u16 source;		/* net; echo: type and code */
	__u16 dest;		/* net */
	__u32 number;		/* net; TCP: sequence number; UDP: length and checksum; echo: id and sequence number */
};

struct quote_transport {	/* the begin of what is quoted behind the IP header */
	__u16 source;		/* net; echo: type and code */
	__u16 dest;		/* net */
	__u32 number;		/* as above */
};

static __always_inline bool is_icmp_error(const struct icmp *i, bool ipv6)
{
	if (ipv6) {
		switch (i->type) {
		case ICMPV6_UNREACHABLE:
			return i->code <= 6;
		case ICMPV6_TOO_BIG:
			return !i->code;
		case ICMPV6_TIME_EXCEEDED:
			return i->code <= 1;
		case ICMPV6_PARAMETER_PROBLEM:
			return i->code <= 2;
		}
		return false;
	}
	switch (i->type) {
	case ICMP_UNREACHABLE:
		return i->code <= 15;
	case ICMP_TIME_EXCEEDED:
		return i->code <= 1;
	case ICMP_PARAMETER_PROBLEM:
		return i->code <= 2;
	}
	return false;
}

/* The error must be its receiver's packet coming back: quoted from where the error goes, to where it is from. */
APART(parse_error, (struct __sk_buff *skb, struct packet *p, __u32 offset), p, (skb, p, offset), REASON_INTERNAL)
{
	struct quote q = {};
	__u16 kind;

	if (p->fragment)
		return REASON_FRAGMENT;
	if (skb->gso_size || p->length < 20 + sizeof(q) || p->length > ICMP_ERROR_MOST ||
	    bpf_skb_load_bytes(skb, offset, &q, sizeof(q)))
		return REASON_MALFORMED;
	if (q.ip.version_ihl != 0x45 || bpf_ntohs(q.ip.length) < 28 || q.ip.saddr != p->daddr || q.ip.daddr != p->saddr)
		return REASON_MALFORMED;
	if (q.ip.fragment & bpf_htons(FRAGMENT_OFFSET))
		return REASON_FRAGMENT;
	if (q.ip.protocol == IPPROTO_ICMP) {
		kind = bpf_ntohs(q.source);
		if (kind != ICMP_ECHO << 8 && kind != ICMP_ECHO_REPLY << 8)
			return REASON_PROTOCOL;
		p->sport = *(__u16 *)&q.number;
	} else if (q.ip.protocol == IPPROTO_TCP || q.ip.protocol == IPPROTO_UDP) {
		if (!q.source || !q.dest)
			return REASON_MALFORMED;
		p->sport = q.dest;
		p->dport = q.source;
	} else {
		return REASON_PROTOCOL;
	}
	p->icmp_type = q.icmp.type;
	p->header = sizeof(struct icmp);
	p->about = q.ip.protocol;
	return REASON_NONE;
}

/* The same of ICMPv6: the addresses are compared as they stand, in whatever form the packet has them. */
APART(parse_error6, (struct __sk_buff *skb, struct packet *p, __u32 offset), p, (skb, p, offset), REASON_INTERNAL)
{
	struct quote_transport t = {};
	struct ipv6_fragment part;
	__u32 at = sizeof(struct icmp) + sizeof(struct ipv6), outer[8];
	struct ipv6 q = {};
	__u16 kind;

	if (p->fragment)
		return REASON_FRAGMENT;
	if (skb->gso_size || p->length < 20 + at + sizeof(t) || p->length > ICMPV6_ERROR_MOST - 20 ||
	    bpf_skb_load_bytes(skb, offset + sizeof(struct icmp), &q, sizeof(q)) ||
	    bpf_skb_load_bytes(skb, p->l3 + 8, outer, sizeof(outer)))
		return REASON_MALFORMED;
	if (bpf_ntohl(q.version_class_label) >> 28 != 6 || bpf_ntohs(q.payload) < 8 || bpf_ntohs(q.payload) > 65515 ||
	    __builtin_memcmp(q.saddr, outer + 4, 16) || __builtin_memcmp(q.daddr, outer, 16))
		return REASON_MALFORMED;
	if (q.next_header == IPPROTO_FRAGMENT) {
		if (p->length < 20 + at + sizeof(part) + sizeof(t) || bpf_ntohs(q.payload) < sizeof(part) + 8 ||
		    bpf_skb_load_bytes(skb, offset + at, &part, sizeof(part)))
			return REASON_MALFORMED;
		if (part.offset & bpf_htons(0xfff8))
			return REASON_FRAGMENT;
		q.next_header = part.next_header;
		at += sizeof(part);
	}
	if (bpf_skb_load_bytes(skb, offset + at, &t, sizeof(t)))
		return REASON_MALFORMED;
	if (q.next_header == IPPROTO_ICMPV6) {
		kind = bpf_ntohs(t.source);
		if (kind != ICMPV6_ECHO << 8 && kind != ICMPV6_ECHO_REPLY << 8)
			return REASON_PROTOCOL;
		p->sport = *(__u16 *)&t.number;
	} else if (q.next_header == IPPROTO_TCP || q.next_header == IPPROTO_UDP) {
		if (!t.source || !t.dest)
			return REASON_MALFORMED;
		p->sport = t.dest;
		p->dport = t.source;
	} else {
		return REASON_PROTOCOL;
	}
	p->header = sizeof(struct icmp);
	p->about = q.next_header;
	p->quote = at;
	return REASON_NONE;
}

static __always_inline __u32 proxy_unshifted(const struct flow *f, __u32 seq);

/* The quote's part of rewrite_transport: its addresses and ports are the entry's, turned round. */
APART(rewrite_error, (struct __sk_buff *skb, const struct packet *p, const struct flow *f, __u32 offset),
      p && f, (skb, p, f, offset), -1)
{
	__u32 zero = 0, n = p->about == IPPROTO_TCP && p->length >= 20 + 48 ? 48 : 36;
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct quote *was, *now;
	__u16 *check;
	__s64 diff;

	if (!s)
		return -1;
	__builtin_memset(s->quote, 0, sizeof(s->quote));
	if (n == 48 ? bpf_skb_load_bytes(skb, offset, s->quote, 48) : bpf_skb_load_bytes(skb, offset, s->quote, 36))
		return -1;
	__builtin_memcpy(s->quoted, s->quote, sizeof(s->quoted));
	was = (struct quote *)s->quote;
	now = (struct quote *)s->quoted;
	now->ip.saddr = f->daddr;
	now->ip.daddr = f->saddr;
	diff = bpf_csum_diff(&was->ip.saddr, 8, &now->ip.saddr, 8, 0);
	if (diff < 0)
		return -1;
	now->ip.check = update_sum(was->ip.check, diff);
	if (p->about != IPPROTO_ICMP) {
		now->source = f->dport;
		now->dest = f->sport;
		diff = bpf_csum_diff((__u32 *)&was->source, 4, (__u32 *)&now->source, 4, diff);
		if (diff < 0)
			return -1;
	}
	if (p->about == IPPROTO_TCP && f->proxy && f->flags & FLOW_DEST_TAGGED) { /* the sequence number is the target's */
		now->number = bpf_htonl(proxy_unshifted(f, bpf_ntohl(was->number)));
		diff = bpf_csum_diff(&was->number, 4, &now->number, 4, diff);
		if (diff < 0)
			return -1;
	}
	check = p->about == IPPROTO_UDP ? (__u16 *)&now->number + 1 : (__u16 *)(s->quoted + 44);
	if (p->about == IPPROTO_UDP ? *check != 0 : n == 48) {
		*check = update_sum(*check, diff);
		if (p->about == IPPROTO_UDP && !*check)
			*check = 0xffff;
	}
	diff = bpf_csum_diff((__u32 *)s->quote, sizeof(s->quote), (__u32 *)s->quoted, sizeof(s->quoted), 0);
	if (diff < 0 || bpf_l4_csum_replace(skb, offset + 2, 0, diff, 0))
		return -1;
	offset += sizeof(struct icmp);
	return n == 48 ? bpf_skb_store_bytes(skb, offset, s->quoted + 8, 40, 0)
		       : bpf_skb_store_bytes(skb, offset, s->quoted + 8, 28, 0);
}

/* The same of ICMPv6, as far as it is behind the quoted IP header; finish_error6 does the rest. */
APART(rewrite_error6, (struct __sk_buff *skb, const struct packet *p, const struct flow *f, __u32 offset),
      p && f, (skb, p, f, offset), -1)
{
	__u32 from[2] = { p->daddr, p->saddr }, to[2] = { f->daddr, f->saddr };
	struct quote_transport was = {}, now;
	__u32 at = offset + p->quote, check_at;
	__u16 check = 0;
	__s64 diff;

	if (p->about == IPPROTO_ICMPV6)
		return 0;
	if (bpf_skb_load_bytes(skb, at, &was, sizeof(was)))
		return -1;
	now = was;
	now.source = f->dport;
	now.dest = f->sport;
	if (p->about == IPPROTO_TCP && f->proxy && f->flags & FLOW_DEST_TAGGED)
		now.number = bpf_htonl(proxy_unshifted(f, bpf_ntohl(was.number)));
	diff = bpf_csum_diff(from, sizeof(from), to, sizeof(to), 0);
	if (diff < 0)
		return -1;
	diff = bpf_csum_diff((__u32 *)&was, sizeof(was), (__u32 *)&now, sizeof(now), diff);
	if (diff < 0 || bpf_skb_store_bytes(skb, at, &now, sizeof(now), 0))
		return -1;
	check_at = at + (p->about == IPPROTO_UDP ? 6 : 16);
	if (p->about == IPPROTO_TCP && p->length < 20 + p->quote + 20)
		return 0;
	if (bpf_skb_load_bytes(skb, check_at, &check, sizeof(check)))
		return -1;
	if (p->about == IPPROTO_UDP && !check)
		return 0;
	check = update_sum(check, diff);
	if (p->about == IPPROTO_UDP && !check)
		check = 0xffff;
	return bpf_skb_store_bytes(skb, check_at, &check, sizeof(check), 0);
}

#endif
