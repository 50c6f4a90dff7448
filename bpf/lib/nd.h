/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Neighbour discovery (RFC 4861) of workloads. Whoever is asked for is behind the gateway, as with ARP: every solicitation
 * but those for the workload's own address is answered with the gateway's MAC, and fe80::1 is the router.
 */
#ifndef CULVERT_ND_H
#define CULVERT_ND_H

enum {
	ND_HOP_LIMIT = 255,	/* what crossed a router has less */
	ND_SOURCE_MAC = 1,	/* options */
	ND_TARGET_MAC = 2,
	ND_MTU = 5,
	ND_IS_ROUTER = 0x80,	/* flags of an advertisement */
	ND_SOLICITED = 0x40,
	ND_OVERRIDE = 0x20,
	ROUTER_LIFETIME = 65535,/* seconds, the most (RFC 8319): no advertisement comes unasked */
};

struct nd {			/* solicitation, advertisement: what all of a neighbour's begin with */
	__u8 type;
	__u8 code;
	__u16 check;		/* net */
	__u8 flags;		/* advertisement */
	__u8 reserved[3];
	__u32 target[4];	/* net */
};

struct nd_mac {			/* option */
	__u8 type;
	__u8 length;		/* in 8 bytes */
	__u8 mac[6];
};

struct neighbour_advert {
	struct ipv6 ip;
	struct nd nd;
	struct nd_mac mac;
};

struct router_advert {
	struct ipv6 ip;
	__u8 type;
	__u8 code;
	__u16 check;		/* net, as are all multi-byte fields */
	__u8 hop_limit;
	__u8 flags;
	__u16 lifetime;		/* seconds */
	__u32 reachable;
	__u32 retransmit;
	struct nd_mac mac;
	__u8 mtu_type;
	__u8 mtu_length;
	__u16 reserved;
	__u32 mtu;
};

static __always_inline bool unspecified(const __u32 *a)
{
	return !(a[0] | a[1] | a[2] | a[3]);
}

static __always_inline bool link_local(const __u32 *a)
{
	return (a[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline bool multicast(const __u32 *a)
{
	return (a[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline bool is_gateway(const __u32 *a)
{
	return a[0] == bpf_htonl(0xfe800000) && !(a[1] | a[2]) && a[3] == bpf_htonl(1);
}

static __always_inline bool address_equal(const __u32 *a, const __u32 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]));
}

/* Is the target one that a workload may call its own? Its link-local address is its own choice. */
static __always_inline bool own_target(const __u32 *target, const __u32 *own)
{
	return address_equal(target, own) || (link_local(target) && !is_gateway(target));
}

/* Solicitations: what is asked stays in s->solicit, and p->ask says that an answer is due. */
static __always_inline int solicitation(struct scratch *s, const struct ipv6 *h, const struct nd *n, const __u32 *own)
{
	struct packet *p = &s->packet;

	if (n->type == ND_NEIGHBOUR_SOLICIT) {
		if (multicast(n->target))
			return REASON_MALFORMED;
		if (unspecified(h->saddr)) /* is the address free? Its own always is */
			return own_target(n->target, own) ? REASON_ANSWERED : REASON_SPOOFED_ADDRESS;
		if (address_equal(n->target, own))
			return REASON_ANSWERED;
		__builtin_memcpy(s->solicit.target, n->target, sizeof(n->target));
	}
	__builtin_memcpy(s->solicit.source, h->saddr, sizeof(h->saddr));
	p->ask = n->type == ND_NEIGHBOUR_SOLICIT ? ASK_NEIGHBOUR : ASK_ROUTER;
	return REASON_ANSWERED;
}

/* Neighbour discovery in a workload's ICMPv6 packet; REASON_NONE when it is something else. */
APART(discovery, (struct __sk_buff *skb, struct scratch *s, const struct ipv6 *h, const struct config *config,
		  const struct vpc_addr *where),
      s && h && config && where, (skb, s, h, config, where), REASON_INTERNAL)
{
	struct packet *p = &s->packet;
	__u32 len = p->length - 20, own[4];
	struct nd n = {};

	if (len < 8 || bpf_skb_load_bytes(skb, p->l3 + sizeof(*h), &n, 8))
		return REASON_NONE;
	if (n.type < ND_ROUTER_SOLICIT || n.type > ND_REDIRECT)
		return REASON_NONE;
	if (h->hop_limit != ND_HOP_LIMIT || n.code)
		return REASON_MALFORMED;
	overlay_write(own, config->mesh, where->vpc, where->addr, 0);
	if (!address_equal(h->saddr, own) && !link_local(h->saddr) && !unspecified(h->saddr))
		return REASON_SPOOFED_ADDRESS;
	if (n.type == ND_ROUTER_ADVERT || n.type == ND_REDIRECT) /* no workload is a router */
		return REASON_SPOOFED_ADDRESS;
	if (n.type == ND_ROUTER_SOLICIT)
		return solicitation(s, h, &n, own);
	if (len < sizeof(n) || bpf_skb_load_bytes(skb, p->l3 + sizeof(*h), &n, sizeof(n)))
		return REASON_MALFORMED;
	if (n.type == ND_NEIGHBOUR_SOLICIT)
		return solicitation(s, h, &n, own);
	return own_target(n.target, own) ? REASON_ANSWERED : REASON_SPOOFED_ADDRESS;
}

/* The IPv6 header of an answer of 32 bytes, and the sum of its pseudo header. */
static __always_inline __s64 advert_header(struct ipv6 *h, const __u32 *source, const __u32 *dest)
{
	__u32 rest[2] = { bpf_htonl(32), bpf_htonl(IPPROTO_ICMPV6) };
	__s64 sum;

	h->version_class_label = bpf_htonl(6 << 28);
	h->payload = bpf_htons(32);
	h->next_header = IPPROTO_ICMPV6;
	h->hop_limit = ND_HOP_LIMIT;
	__builtin_memcpy(h->saddr, source, sizeof(h->saddr));
	__builtin_memcpy(h->daddr, dest, sizeof(h->daddr));
	sum = bpf_csum_diff(NULL, 0, h->saddr, 32, 0);
	return sum < 0 ? sum : bpf_csum_diff(NULL, 0, rest, sizeof(rest), sum);
}

/* Who has that address? The gateway. */
APART(answer_neighbour, (struct __sk_buff *skb, const struct scratch *s, const struct eni *eni),
      s && eni, (skb, s, eni), -1)
{
	struct neighbour_advert a = {};
	__s64 sum = advert_header(&a.ip, s->solicit.target, s->solicit.source);

	a.nd.type = ND_NEIGHBOUR_ADVERT;
	a.nd.flags = ND_IS_ROUTER | ND_SOLICITED | ND_OVERRIDE;
	__builtin_memcpy(a.nd.target, s->solicit.target, sizeof(a.nd.target));
	a.mac.type = ND_TARGET_MAC;
	a.mac.length = 1;
	__builtin_memcpy(a.mac.mac, eni->gateway_mac, 6);
	if (sum < 0)
		return -1;
	sum = bpf_csum_diff(NULL, 0, (__u32 *)&a.nd, sizeof(a.nd) + sizeof(a.mac), sum);
	if (sum < 0)
		return -1;
	a.nd.check = ~fold(sum);
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(a), 0) ||
	    write_ethernet(skb, eni->mac, eni->gateway_mac, ETH_P_IPV6))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &a, sizeof(a), 0);
}

/* Who is the router? fe80::1, for good. No prefix is on the link, and none is for making addresses of. */
APART(answer_router, (struct __sk_buff *skb, const struct scratch *s, const struct eni *eni, __u32 mtu),
      s && eni, (skb, s, eni, mtu), -1)
{
	const __u32 router[4] = { bpf_htonl(0xfe800000), 0, 0, bpf_htonl(1) };
	__u32 dest[4] = { bpf_htonl(0xff020000), 0, 0, bpf_htonl(1) };
	struct router_advert a = {
		.type = ND_ROUTER_ADVERT,
		.hop_limit = 64,
		.lifetime = bpf_htons(ROUTER_LIFETIME),
		.mac = { .type = ND_SOURCE_MAC, .length = 1 },
		.mtu_type = ND_MTU,
		.mtu_length = 1,
		.mtu = bpf_htonl(mtu),
	};
	__s64 sum;

	if (!unspecified(s->solicit.source))
		__builtin_memcpy(dest, s->solicit.source, sizeof(dest));
	__builtin_memcpy(a.mac.mac, eni->gateway_mac, 6);
	sum = advert_header(&a.ip, router, dest);
	if (sum < 0)
		return -1;
	sum = bpf_csum_diff(NULL, 0, (__u32 *)&a.type, sizeof(a) - sizeof(a.ip), sum);
	if (sum < 0)
		return -1;
	a.check = ~fold(sum);
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(a), 0) ||
	    write_ethernet(skb, eni->mac, eni->gateway_mac, ETH_P_IPV6))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &a, sizeof(a), 0);
}

#endif
