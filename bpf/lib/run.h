/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What a run of a program knows. Everything bigger than a few words lives in a per-CPU map, because a BPF stack has 512
 * bytes; programs do not nest on a CPU: a redirect happens after the program has returned.
 */
#ifndef CULVERT_RUN_H
#define CULVERT_RUN_H

struct packet {
	__u32 l3;		/* offset of the IP header in the frame */
	__u32 packets;		/* wire packets, offload expanded */
	__u32 bytes;		/* IP bytes as the workload has them */
	__u32 eni;		/* number that the final reason is counted for */
	__u32 source_vpc;
	__u32 dest_vpc;
	__u32 saddr;		/* net, as are daddr and ports */
	__u32 daddr;
	__u16 sport;
	__u16 dport;
	__u16 tag;		/* number of the tagged side, 0 inside a VPC */
	__u16 length;		/* IPv4 total length, host order */
	__u16 id;		/* IPv4 id, host order */
	__u8 protocol;
	__u8 tos;
	__u8 ttl;
	__u8 df;
	__u8 icmp_type;
	__u8 tcp_flags;
	__u8 header;		/* bytes of the layer 4 header */
	__u8 hook;
	__u8 view;		/* of the flow key */
	__u8 quiet;		/* a refusal leaves no record */
	__u8 ask;		/* ARP: daddr is asked for */
	__u32 seq;		/* host order, as is ack */
	__u32 ack;
};

/* Where the walk over TCP options is. */
struct mss_walk {
	__u32 at;
	__u32 end;
	__u16 limit;
	__u16 changed;
};

struct scratch {
	struct packet packet;
	struct flow_key key;	/* of this packet */
	struct flow own;	/* copy of the entry of this packet's direction */
	struct flow open;	/* opening direction's entry: built anew, or a copy to be judged */
	struct flow other;	/* entry of the other direction, as above */
	__u8 before[40];	/* TCP options */
	__u8 after[40];
	__u8 quote[48];		/* begin of a packet that is too big */
	struct mss_walk walk;
};

#include "maps.h"

struct run {
	struct scratch *s;
	const struct config *config;
	struct eni *eni;	/* source at from_workload, destination elsewhere */
};

/* Link header of culvert0: none. Test runs always have one. */
const volatile __u32 tunnel_l2 = 0;

static __always_inline bool begin(struct run *r, __u8 hook)
{
	__u32 zero = 0;

	r->s = bpf_map_lookup_elem(&scratch, &zero);
	r->config = bpf_map_lookup_elem(&config, &zero);
	if (!r->s || !r->config)
		return false;
	__builtin_memset(&r->s->packet, 0, sizeof(r->s->packet));
	r->s->packet.hook = hook;
	r->s->packet.packets = 1;
	return true;
}

/* Without a fresh configuration nothing passes. */
static __always_inline int check_config(const struct run *r)
{
	__u64 expires = r->config->expires_ns;

	if (!r->config->generation)
		return REASON_NO_STATE;
	if (expires && bpf_ktime_get_boot_ns() > expires)
		return REASON_VIEW_EXPIRED;
	return REASON_NONE;
}

static __always_inline struct eni *find_eni(__u32 vpc, __u32 addr)
{
	struct vpc_addr key = { .vpc = vpc, .addr = addr };

	return bpf_map_lookup_elem(&enis, &key);
}

static __always_inline struct address *find_address(__u32 vpc, __u32 addr)
{
	struct vpc_addr key = { .vpc = vpc, .addr = addr };

	return bpf_map_lookup_elem(&addresses, &key);
}

static __always_inline bool mac_equal(const __u8 *a, const __u8 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5]));
}

#endif
