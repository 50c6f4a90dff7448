/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What a run of a program knows. Everything bigger than a few words lives in a per-CPU map, because a BPF stack has 512
 * bytes; programs do not nest on a CPU: a redirect happens after the program has returned.
 */
#ifndef CULVERT_RUN_H
#define CULVERT_RUN_H

enum {
	SUM_CHUNK = 256,	/* bytes summed at once; bpf_csum_diff takes 512 */
	SUM_CHUNKS = 257,	/* 65,535 bytes, and what is left */
};

enum ask {
	ASK_NONE = 0,
	ASK_ARP = 1,		/* daddr is asked for */
	ASK_NEIGHBOUR = 2,	/* scratch.solicit */
	ASK_ROUTER = 3,
};

/* What the frame says, and its checksum of layer 4 covers. Of an ICMP error, and of ports in a fragment without them, nobody asks. */
struct tuple {
	__u32 saddr;		/* net, as are the others */
	__u32 daddr;
	__u16 sport;
	__u16 dport;
};

struct packet {
	__u64 now;		/* boot time, read once */
	__u32 l3;		/* offset of the IP header in the frame */
	__u32 packets;		/* wire packets, offload expanded */
	__u32 bytes;		/* IP bytes as the workload has them */
	__u32 eni;		/* number that the final reason is counted for */
	__u32 source_vpc;
	__u32 dest_vpc;
	__u32 saddr;		/* net, as are daddr and ports */
	__u32 daddr;
	__u32 label;		/* IPv6 flow label, host order */
	__u16 sport;
	__u16 dport;
	__u16 tag;		/* number of the tagged side, 0 inside a VPC */
	__u16 length;		/* IPv4 total length, host order; of IPv6 what it is without 20 bytes of its header */
	__u16 fragment;		/* FRAGMENT_MORE and offset / 8, host order; 0: whole */
	__u32 id;		/* IPv4's, or a Fragment header's; host order */
	__u32 fresh;		/* fragment: the id that it leaves with */
	__u8 protocol;
	__u8 tos;
	__u8 ttl;
	__u8 df;
	__u8 icmp_type;
	__u8 icmp_code;		/* of an error */
	__u8 tcp_flags;
	__u8 header;		/* bytes of the layer 4 header */
	__u8 hook;
	__u8 view;		/* of the flow key, without the family */
	__u8 later;		/* a fragment without layer 4 header: ports are those of its first one */
	__u8 about;		/* ICMP error: protocol of the packet quoted, whose ports turned round are sport, dport */
	__u8 quote;		/* ICMPv6 error: where in it the transport header of the packet quoted is */
	__u8 quiet;		/* a refusal leaves no record */
	__u8 ask;		/* enum ask: what an answer is due to */
	__u8 held;		/* there is an entry that is over and may have held a port for this flow */
	__u8 ipv6;		/* family: of the workload's packet, and in the overlay of the one that opened the flow */
	__u8 wire6;		/* the header in the frame is IPv6: in the overlay it always is */
	struct tuple wire;	/* on its way to the receive half of this node the frame lags behind saddr, daddr, sport, dport */
	__u32 seq;		/* host order, as is ack; UDP: length << 16 | checksum */
	__u32 ack;
};

enum {
	FRAGMENT_MORE = 0x2000,
	FRAGMENT_OFFSET = 0x1fff,	/* of 8 bytes each */
};

/* Where the walk over options is. */
struct option_walk {
	__u32 at;
	__u32 end;
	__u16 limit;
	__u16 changed;
};

/* Where the walk over TCP options of a flow with a PROXY protocol header is. */
struct proxy_walk {
	__u32 end;
	__u32 option;	/* where the next one begins */
	__u32 edge;	/* where the next edge of a SACK block stands */
	__u8 erase;
	__u8 syn;
	__u8 changed;
	__u8 pad;
};

/* Where the sum over a datagram is. */
struct sum_walk {
	__u32 at;		/* offset in the frame */
	__u32 end;
	__u64 sum;
};

/* Of a neighbour or router solicitation. */
struct solicit {
	__u32 source[4];	/* net */
	__u32 target[4];
};

enum { EXTENSION_BYTES = 128 };	/* of extension headers, all together */

/* Where the walk over extension headers is. */
struct extension_walk {
	__u32 at;
	__u32 end;
	__u32 until;	/* end of the header whose options are looked at */
	__u8 next;	/* kind of what comes behind that header */
	__u8 headers;
	__u8 good;
	__u8 spare;
};

struct scratch {
	struct packet packet;
	struct flow_key key;	/* of this packet */
	struct flow_key pair;	/* of the entry of the other direction, while it is looked for */
	struct flow own;	/* copy of the entry of this packet's direction */
	struct flow open;	/* opening direction's entry: built anew, or a copy to be judged */
	struct flow other;	/* entry of the other direction, as above */
	__u32 guaranteed_ports;	/* of a new flow's connection toward its target */
	__u32 spare_ports;	/* it has fewer: the ports that are kept may be tried */
	__u8 before[40];	/* options, TCP's or IPv4's */
	__u8 after[40];
	__u8 quote[60];		/* begin of a packet that is too big; or an ICMP error with what it quotes */
	__u8 quoted[60];	/* the same after translation */
	__u8 chunk[SUM_CHUNK];	/* part of a datagram */
	struct fragment_ring ring;
	struct option_walk walk;
	__u8 extension[EXTENSION_BYTES];	/* extension headers */
	struct extension_walk extension_walk;
	struct proxy_walk proxy_walk;
	__u8 segment[60];	/* TCP header with options, and what follows it */
	__u8 header[80];
	struct sum_walk total;
	struct solicit solicit;
};

#include "maps.h"

struct run {
	struct scratch *s;
	const struct config *config;
	struct eni *eni;	/* source at from_workload, destination elsewhere */
	__u16 mtu;		/* bytes of an overlay packet of this packet's flow */
};

/*
 * A function that the verifier looks at by itself, once, whoever calls it: inside it nothing is known of its callers, so that their
 * states do not multiply with its own. A pointer may be NULL there, as far as the verifier knows, and then it returns what fails.
 * What it is given lies in memory whose kind is not known: Linux 6.1 takes no key or value of a map from there. Stack that it
 * is given has to be written whole.
 */
#define APART(NAME, PARAMETERS, POINTERS, ARGUMENTS, FAILED)	\
	static __always_inline int NAME##_inside PARAMETERS;	\
	__noinline int NAME PARAMETERS				\
	{							\
		if (!(POINTERS))				\
			return FAILED;				\
		return NAME##_inside ARGUMENTS;			\
	}							\
	static __always_inline int NAME##_inside PARAMETERS

/* The memory of this run, for functions that are looked at by themselves and give it to maps. */
static __always_inline struct scratch *run_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

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
	r->mtu = r->config->tunnel_mtu;
	return true;
}

/* Without a fresh configuration nothing passes. */
static __always_inline int check_config(struct run *r)
{
	__u64 expires = r->config->expires_ns;

	r->s->packet.now = bpf_ktime_get_boot_ns();
	if (!r->config->generation)
		return REASON_NO_STATE;
	if (expires && r->s->packet.now > expires)
		return REASON_VIEW_EXPIRED;
	return REASON_NONE;
}

/* Offset of the layer 4 header. */
static __always_inline __u32 transport_at(const struct packet *p)
{
	return p->l3 + (p->wire6 ? sizeof(struct ipv6) : sizeof(struct ipv4));
}

static __always_inline bool is_icmp(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

/* The bit of a key's family in families. */
static __always_inline __u8 family_of(__u8 view)
{
	return view & KEY_IPV6 ? FAMILY_IPV6 : FAMILY_IPV4;
}

/* Tests widen the moment between finding a row and reading it, by so many rounds. 0 in all other loads, as copy_stall. */
const volatile __u32 row_stall = 0;

static long stall_step(__u32 i, void *ctx)
{
	return 0;
}

static __noinline int stall_row(void)
{
	bpf_loop(row_stall, stall_step, NULL, 0);
	return 0;
}

/*
 * A row of a plan that was found stays this key's until the program ends (decision 0019): it may be written beneath it, field
 * by field, but it is no other's. So whoever needs a field twice reads it once.
 */
static __always_inline struct eni *find_eni(__u32 vpc, __u32 addr)
{
	struct vpc_addr key = { .vpc = vpc, .addr = addr };
	struct eni *eni = bpf_map_lookup_elem(&enis, &key);

	if (row_stall)
		stall_row();
	return eni;
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
