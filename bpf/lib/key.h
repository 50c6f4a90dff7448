/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* What a flow entry does not store because its key and its rewrite say it. bpf/key.go is the Go twin. */
#ifndef CULVERT_KEY_H
#define CULVERT_KEY_H

static __always_inline bool key_equal(const struct flow_key *a, const struct flow_key *b)
{
	return a->vpc == b->vpc && a->saddr == b->saddr && a->daddr == b->daddr && a->sport == b->sport &&
	       a->dport == b->dport && a->tag == b->tag && a->view == b->view && a->protocol == b->protocol;
}

static __always_inline __u8 key_view(const struct flow_key *k)
{
	return k->view & ~KEY_IPV6;
}

/* 4 or 6. */
static __always_inline __u8 key_family(const struct flow_key *k)
{
	return k->view & KEY_IPV6 ? 6 : 4;
}

/* Packets of these views go to the VPC that the key names, those of all others come from it. */
static __always_inline bool view_inward(__u8 view)
{
	return view == VIEW_CONSUMER || view == VIEW_HOST || view == VIEW_CLIENT;
}

/* Of an opening entry: does the target see the client's own address? */
static __always_inline bool shows_client(const struct flow *f)
{
	return (f->reverse_view & ~KEY_IPV6) == VIEW_CLIENT;
}

/* VPCs of the packets that an entry handles, as the overlay has or would have them. */
static __always_inline __u32 flow_source_vpc(const struct flow *f)
{
	return view_inward(key_view(&f->key)) ? f->peer_vpc : f->key.vpc;
}

static __always_inline __u32 flow_dest_vpc(const struct flow *f)
{
	return view_inward(key_view(&f->key)) ? f->key.vpc : f->peer_vpc;
}

/* The key of the other direction: the rewritten tuple turned round. */
static __always_inline void reverse_key(const struct flow *f, struct flow_key *k)
{
	bool echo = f->key.protocol == IPPROTO_ICMP || f->key.protocol == IPPROTO_ICMPV6;

	k->vpc = view_inward(f->reverse_view & ~KEY_IPV6) ? flow_source_vpc(f) : flow_dest_vpc(f);
	k->saddr = f->daddr;
	k->daddr = f->saddr;
	k->sport = echo ? f->sport : f->dport;
	k->dport = echo ? 0 : f->sport;
	k->tag = f->tag;
	k->view = f->reverse_view;
	k->protocol = f->key.protocol;
}

#endif
