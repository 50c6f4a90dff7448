/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * The only truth shared by the BPF programs and Go. Go types are generated from the BTF of the compiled objects;
 * a test compares sizes and offsets with this file. Rules: fixed widths, explicit padding, no bitfields, no unions,
 * enums (never #define) for whatever Go names too. Byte order stands with every field: "net" is network order,
 * everything else is host order. Times are nanoseconds of CLOCK_BOOTTIME.
 */
#ifndef CULVERT_ABI_H
#define CULVERT_ABI_H

/* Bumped when a pinned map's key or value changes; it is part of the pin path. */
enum abi_version { ABI_VERSION = 1 };

enum abi_limit {
	LIMIT_RULES = 320,	/* rules in one set: 5 groups of 60 (AWS's limits), rounded up */
	LIMIT_GROUPS = 5,	/* security groups of one ENI (AWS's limit) */
	LIMIT_PORT_TRIES = 8,	/* source ports tried at SNAT before SNAT_PORTS_EXHAUSTED */
};

/* Where a packet entered the datapath. */
enum hook {
	HOOK_NONE = 0,
	HOOK_WORKLOAD = 1,	/* from_workload: from a workload, on its veth's host side */
	HOOK_TUNNEL = 2,	/* from_tunnel: from culvert0, already decrypted */
	HOOK_LOCAL = 3,		/* receive half of a packet whose sender is on this node too */
	HOOK_HOST = 4,		/* from_host: from the node itself */
	HOOK_MAX = 5,
};

/* Why a packet was let through or dropped. Exactly one per packet and hook. docs/REASONS.md explains each. */
enum reason {
	REASON_NONE = 0,		/* entry count: the packet was seen */
	REASON_FORWARDED = 1,		/* let through to its next stage */
	REASON_ANSWERED = 2,		/* ARP, answered or dropped here; a RST or packet-too-big keeps the refusal's reason */
	/* no state, malformed */
	REASON_NO_STATE = 10,		/* no configuration yet */
	REASON_VIEW_EXPIRED = 11,	/* the newest view is older than its maximum age */
	REASON_UNKNOWN_LINK = 12,	/* no ENI at this interface */
	REASON_NOT_IPV4 = 13,		/* neither IPv4 nor ARP, or with a VLAN tag */
	REASON_MALFORMED = 14,		/* truncated, bad length, IHL < 5, zero port, bad ARP */
	REASON_IP_OPTIONS = 15,		/* IPv4 options */
	REASON_FRAGMENT = 16,		/* part of a fragmented datagram */
	REASON_PROTOCOL = 17,		/* neither TCP, UDP nor ICMP echo */
	REASON_TOO_BIG = 18,		/* exceeds the tunnel's MTU; answered with packet-too-big when possible */
	/* spoofing */
	REASON_SPOOFED_MAC = 20,	/* source MAC is not the ENI's */
	REASON_SPOOFED_ADDRESS = 21,	/* source address, or ARP's sender, is not the ENI's */
	REASON_BAD_OVERLAY = 22,	/* overlay address not canonical, other mesh, or tags and VPCs do not fit */
	/* no way */
	REASON_NO_DESTINATION = 30,	/* no such address in the VPC */
	REASON_NOT_HERE = 31,		/* destination ENI is not on this node */
	REASON_NO_LISTENER = 32,	/* endpoint has no listener for this protocol and port */
	REASON_NO_TARGET = 33,		/* no target in the pool */
	REASON_NO_FLOW = 34,		/* an answer, or the middle of a TCP connection, without a flow entry */
	REASON_NO_GRANT = 35,		/* receiver: no Available connection with this number */
	REASON_TARGET_NOT_GRANTED = 36,	/* receiver: the connection does not admit this target and port */
	REASON_HOST_NOT_ADMITTED = 37,	/* from the host, or to a port of the resolver other than 53 */
	/* policy */
	REASON_GROUP_EGRESS = 40,	/* source ENI's security groups */
	REASON_GROUP_INGRESS = 41,	/* destination ENI's security groups */
	REASON_ENDPOINT_GROUP = 42,	/* endpoint's security groups, on the consumer's node */
	REASON_GRANT_SOURCE = 43,	/* receiver: source not admitted by the endpoint's security groups */
	REASON_LB_GROUP_INGRESS = 44,	/* receiver: load balancer's security groups, from the consumer */
	REASON_LB_GROUP_EGRESS = 45,	/* receiver: load balancer's security groups, toward the target */
	REASON_FLOW_REVOKED = 46,	/* a flow whose permission is gone */
	/* limits */
	REASON_FLOW_TABLE_FULL = 50,	/* no room for a flow's two entries */
	REASON_SNAT_PORTS_EXHAUSTED = 51,	/* none of the source ports tried is free */
	REASON_INTERNAL = 60,		/* a helper failed */
	REASON_MAX = 64,
};

/* What an address of a VPC is. */
enum address_type {
	ADDRESS_NONE = 0,
	ADDRESS_WORKLOAD = 1,
	ADDRESS_ENDPOINT = 2,
	ADDRESS_LOAD_BALANCER = 3,
	ADDRESS_RESOLVER = 4,
};

/* From whose side a flow key sees the packet; decision 0002. */
enum view {
	VIEW_NONE = 0,
	VIEW_WORKLOAD = 1,	/* as a workload of `vpc` sends it; tag 0 */
	VIEW_LOCAL = 2,		/* overlay, inside one VPC; tag 0 */
	VIEW_PROVIDER = 3,	/* overlay, source tagged: toward the provider; vpc is the consumer's */
	VIEW_CONSUMER = 4,	/* overlay, destination tagged: toward the consumer; vpc is the consumer's */
	VIEW_HOST = 5,		/* from the node itself to a workload of `vpc` */
};

enum next {
	NEXT_NONE = 0,
	NEXT_TUNNEL = 1,	/* translate to IPv6, culvert0 */
	NEXT_LOCAL = 2,		/* receive half on this node */
	NEXT_WORKLOAD = 3,	/* a workload's veth */
	NEXT_HOST = 4,		/* translate to IPv6, the host's veth */
};

enum flow_flag {
	FLOW_OPENING = 1,	/* entry of the direction that opened the flow */
	FLOW_DEAD = 2,		/* refused for good: permission withdrawn */
	FLOW_SOURCE_TAGGED = 4,	/* the number goes into the source address of the overlay packet */
	FLOW_DEST_TAGGED = 8,
	FLOW_CLOSED = 16,	/* TCP: RST seen, or FIN in both directions */
	FLOW_EXPIRED = 32,	/* its time is over: as good as absent, but a provider's port stays taken */
};

/* What could not be kept: events, or packets. Each is counted, none changes a verdict. */
enum loss {
	LOSS_EVENTS = 0,	/* ring buffer full */
	LOSS_REFUSALS = 1,	/* map refusals full; the reason's counter has it */
	LOSS_COUNTERS = 2,	/* map counters full; counted with ENI 0 if that key exists */
	LOSS_MAX = 3,
};

enum event_kind {
	EVENT_NONE = 0,
	EVENT_OPEN = 1,		/* of the opening entry */
	EVENT_CLOSE = 2,	/* of each entry, with its counters so far */
	EVENT_REFUSED = 3,	/* a new key in refusals */
	EVENT_REMOVED = 4,	/* a flow that was over made way: each entry's final counters, time_ns is its last packet */
};

struct config {			/* map config, array of one */
	__u64 expires_ns;	/* boot time after which REASON_VIEW_EXPIRED; 0 never */
	__u32 generation;	/* 0: REASON_NO_STATE */
	__u32 mesh;		/* 24 bits */
	__u32 node;		/* this node's number */
	__u32 tunnel_ifindex;
	__u32 host_ifindex;	/* culvert-dp: redirecting there hands a packet to the host */
	__u16 tunnel_mtu;	/* bytes */
	__u8 host_mac[6];	/* of culvert-host */
	__u8 dp_mac[6];		/* of culvert-dp */
	__u16 resolver_port;	/* of this node's resolver at its host address; 0: 53, as rows of before have it */
	__u8 pad[4];
};

struct vpc_addr {		/* key of enis, addresses; value of links (key: ifindex) */
	__u32 vpc;
	__u32 addr;		/* net */
};

struct eni {			/* map enis: workload ENIs on this node */
	__u32 number;
	__u32 ifindex;		/* host side of the veth */
	__u32 ingress_rules;	/* key into rule_sets; 0: none, nothing passes */
	__u32 egress_rules;
	__u32 groups[LIMIT_GROUPS];	/* numbers, 0 unused */
	__u8 mac[6];		/* the workload's */
	__u8 gateway_mac[6];	/* host side of the veth */
	__u8 spare[16];
};

struct address {		/* map addresses */
	__u32 type;		/* enum address_type */
	__u32 number;		/* of the ENI */
	__u32 rules;		/* endpoint: ingress rule set of its groups; load balancer: ingress */
	__u32 egress_rules;	/* load balancer */
	__u32 groups[LIMIT_GROUPS];
	__u8 spare[12];
};

struct rule {
	__u32 addr;		/* net; with mask, or 0/0 */
	__u32 mask;		/* net */
	__u32 group;		/* !=0: peer must be in this group, addr and mask unused */
	__u16 port_low;		/* inclusive; 0..65535 for protocols without ports */
	__u16 port_high;
	__u16 protocol;		/* IANA number; 256: any */
	__u16 spare;
	__u32 id;		/* number of the rule within the plan, for records */
};

struct rule_set {		/* inner map of rule_sets: array of one */
	__u32 count;
	__u32 spare;
	struct rule rules[LIMIT_RULES];
};

struct service_key {		/* key of services, consumer's node */
	__u32 vpc;
	__u32 addr;		/* net; the endpoint ENI's */
	__u16 port;		/* net */
	__u8 protocol;
	__u8 pad;
};

struct service {
	__u32 connection;
	__u32 provider_vpc;
	__u32 table;		/* key into target_tables */
	__u32 table_size;	/* entries; 0: NO_TARGET */
	__u32 endpoint_eni;	/* number */
	__u32 idle_s;		/* seconds */
	__u16 tag;		/* number 1..32767 */
	__u16 pad;
	__u8 spare[12];
};

struct target {			/* value of the inner arrays of target_tables */
	__u32 addr;		/* net */
	__u16 port;		/* net */
	__u16 spare;
};

struct grant_key {		/* key of grants, provider's node */
	__u32 vpc;		/* consumer's */
	__u32 tag;		/* number */
};

struct grant {
	__u32 connection;
	__u32 provider_vpc;
	__u32 admitted;		/* rule set: the endpoint's ingress rules, port is the listener's */
	__u32 lb_rules;		/* rule set: load balancer ingress */
	__u32 lb_egress_rules;
	__u32 dialed_addr;	/* net */
	__u16 dialed_port;	/* net; the listener's */
	__u8 protocol;
	__u8 pad;
	__u32 idle_s;
	__u8 spare[16];
};

struct grant_target_key {
	__u32 vpc;		/* consumer's */
	__u32 tag;
	__u32 addr;		/* net; target */
	__u16 port;		/* net */
	__u16 pad;
};

struct grant_target {
	__u32 source;		/* net; load balancer's address */
	__u32 source_eni;	/* number */
	__u8 spare[8];
};

struct flow_key {
	__u32 vpc;
	__u32 saddr;		/* net */
	__u32 daddr;		/* net */
	__u16 sport;		/* net; ICMP echo: id, in the opening direction and in the answer */
	__u16 dport;		/* net; ICMP echo: 0 */
	__u16 tag;		/* number */
	__u8 view;		/* enum view */
	__u8 protocol;
};

struct flow {			/* map flows; one entry per direction, holding its whole rewrite */
	__u64 id;		/* same in both entries; 0 while the entry is being removed */
	__u64 created_ns;
	__u64 last_ns;
	__u64 packets;		/* wire packets, offload expanded */
	__u64 bytes;		/* IP bytes as the workload has them */
	struct flow_key key;	/* must equal the key it was found by: hash elements are recycled */
	struct flow_key reverse;/* key of the other direction's entry */
	__u32 generation;	/* judged under */
	__u32 source_vpc;	/* of the packets it handles, as the overlay has or would have them */
	__u32 dest_vpc;
	__u32 saddr;		/* net; after the rewrite, as are the next three */
	__u32 daddr;		/* net */
	__u16 sport;		/* net */
	__u16 dport;		/* net */
	__u16 tag;		/* number after the rewrite */
	__u8 next;		/* enum next */
	__u8 flags;		/* enum flow_flag */
	__u8 tcp_flags;		/* OR of all seen */
	__u8 hook;		/* where this entry's packets enter */
	__u16 spare16;
	__u32 eni;		/* number of the local ENI */
	__u32 connection;
	__u32 rule;		/* id of the rule that allowed it */
	__u32 idle_s;
	__u32 eni_ifindex;	/* of the local workload when next is NEXT_WORKLOAD; for records, `enis` decides */
	__u8 spare[20];
};

/* How the agent asks mark_flows and remove_flows: test-run input, MARK_HEADER bytes and then structures. */
enum mark_limit {
	MARK_HEADER = 16,
	MARK_MAX = 64,		/* struct flow_mark in one run of mark_flows */
	REMOVE_MAX = 48,	/* struct flow_removal in one run of remove_flows */
};

struct flow_mark {		/* marks both entries of a flow */
	struct flow_key key;	/* of either entry */
	__u32 flag;		/* FLOW_DEAD or FLOW_EXPIRED */
	__u64 id;
	__u64 last_ns;		/* FLOW_EXPIRED: only if no packet of either direction came later */
};

struct flow_removal {		/* removes one entry that is marked; what follows the id is the answer */
	struct flow_key key;
	__u32 removed;		/* 1: it was there, and nobody else removed it; the rest are its final values */
	__u64 id;
	__u64 last_ns;
	__u64 packets;
	__u64 bytes;
	__u8 flags;
	__u8 tcp_flags;
	__u8 pad[6];
};

struct counter_key {		/* map counters, per CPU */
	__u32 eni;		/* number of the local ENI, 0 unknown */
	__u16 reason;
	__u8 hook;
	__u8 pad;
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

struct refusal_key {		/* map refusals: bounded, drained by the agent */
	__u32 vpc;		/* source VPC */
	__u32 dest_vpc;
	__u32 eni;
	__u32 saddr;		/* net */
	__u32 daddr;		/* net */
	__u16 dport;		/* net */
	__u16 tag;		/* number */
	__u16 reason;
	__u8 protocol;
	__u8 hook;
};

struct refusal {
	__u64 packets;
	__u64 bytes;
	__u64 first_ns;
	__u64 last_ns;
	__u16 sport;		/* net; of the first */
	__u16 pad[3];
};

struct event {			/* ring buffer events */
	__u64 time_ns;
	__u64 flow_id;
	__u64 packets;
	__u64 bytes;
	struct flow_key key;
	__u32 saddr;		/* net; after the rewrite */
	__u32 daddr;		/* net */
	__u16 sport;		/* net */
	__u16 dport;		/* net */
	__u32 eni;
	__u32 connection;
	__u32 rule;
	__u32 generation;
	__u32 source_vpc;	/* as in struct flow, and so are flags */
	__u32 dest_vpc;
	__u16 reason;
	__u8 kind;		/* enum event_kind */
	__u8 hook;
	__u8 tcp_flags;
	__u8 flags;
	__u8 pad[2];
};

/* Left behind for tests by the one helper that ends a program: test runs do not show where a redirect goes. */
struct outcome {		/* map outcome, per CPU array of one */
	__u32 verdict;		/* TC_ACT_* */
	__u32 reason;
	__u32 ifindex;
	__u32 next;
};

#endif
