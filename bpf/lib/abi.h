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
enum abi_version { ABI_VERSION = 3 };

enum abi_limit {
	LIMIT_RULES = 320,	/* rules in one set: 5 groups of 60 (AWS's limits), rounded up */
	LIMIT_GROUPS = 5,	/* security groups of one ENI (AWS's limit) */
	LIMIT_FRAGMENTS = 64,	/* datagrams of one source whose first fragments are remembered */
	LIMIT_ID_BLOCKS = 16,	/* in which a pair of addresses uses up the 65,536 ids of its fragments */
	LIMIT_OPEN_IDS = 1400,	/* of those, per second, for any endpoint connection that sends to the pair's target */
	LIMIT_KEPT_IDS = 480,	/* for all of them in parts, as they have them of the source ports that are kept */
	LIMIT_IDS_BURST = 2,	/* seconds' worth of either at once: 60,160 in the 30 s in which no id comes again */
	TABLE_SLOTS = 65537,	/* of every target table; decision 0014 */
	TABLE_SEARCH = 12,	/* steps that find one of the targets of a table, 2,000 at most */
	LIMIT_PORT_TRIES = 64,	/* source ports tried of those open to all, besides the client's own */
	LIMIT_SPARE_TRIES = 64,	/* and then of those kept for connections that have few */
	LIMIT_RESETS = 100,	/* RSTs per second that one ENI gets as answers */
	LIMIT_RESET_BURST = 200,
	LIMIT_POOL_OPEN = 38502,	/* source ports in use from which on only connections that have few get one: 80 % of the open ones */
	RESOLVER_IDLE = 30,	/* seconds a query by UDP keeps its entries: each has a port of its own, and is answered soon or never */
	LIMIT_SEGMENTS = 1400,	/* of one offloaded packet: 64 KiB by 48 bytes, TCP_MIN_MSS less 40 of options */
	LIMIT_MESSAGE = 1200,	/* bytes of an overlay packet between nodes: what every path carries */
	LIMIT_MESSAGES = 1000,	/* of them a second from one node, and at once; agent/health/exchange heeds no more either */
	LIMIT_POLICE_BYTES = 131072,	/* may pass at once under a cap of bits/s: two offloaded packets, or 100 ms */
};

/*
 * Source ports: 1024..17407 are kept for connections that have few, where a load balancer's address is the source; those
 * below are tried for the node's probes from there, and for nobody else but clients that have such a port.
 */
enum port_range {
	PORT_PROBE = 1,
	PORT_SPARE = 1024,
	PORT_OPEN = 17408,
	PORT_END = 65536,
};

/*
 * Packets that the guard lets into the tunnel have the mark MARK_TUNNEL ^ lane: the queue of its interface. Decision 0018;
 * agent/wire/tunnel has both numbers too.
 */
enum tunnel_mark {
	LANES = 64,
	MARK_TUNNEL = 0x43554c56,
};

/* What nodes' agents tell each other: UDP, at both ends. Below 1024: no unprivileged user of a host can take it. */
enum node_port { NODE_PORT = 1022 };

/*
 * The mark (SO_MARK) of the agent's sockets that probe targets: without it every user of the host could open connections to
 * them. Bits that others test on a host's packets are 0 in it (kube-proxy's 0x4000 and 0x8000, Cilium's 0x0f00).
 */
enum probe_mark { MARK_PROBE = 0x43550050 };

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
	REASON_ANSWERED = 2,		/* ARP, neighbour discovery, multicast of the link, a probe of the path: answered or dropped here */
	REASON_NODES_OWN = 3,		/* let through, and in no flow record: what agents tell each other, and what a target answers to a probe */
	/* no state, malformed */
	REASON_NO_STATE = 10,		/* no configuration yet */
	REASON_VIEW_EXPIRED = 11,	/* the newest view is older than its maximum age */
	REASON_UNKNOWN_LINK = 12,	/* no ENI at this interface */
	REASON_NOT_IP = 13,		/* neither IP nor ARP, of a family that the ENI does not have, or with a VLAN tag */
	REASON_MALFORMED = 14,		/* truncated, bad length, IHL < 5, zero port, bad ARP, neighbour discovery or ICMP error */
	REASON_IP_OPTIONS = 15,		/* options or extension headers that ask for a route, or cannot be passed over or read */
	REASON_FRAGMENT = 16,		/* before its datagram's first one, overlapping it, ill-formed, or no room to remember */
	REASON_PROTOCOL = 17,		/* neither TCP, UDP, ICMP echo of its family nor an ICMP error about one of these */
	REASON_TOO_BIG = 18,		/* exceeds the tunnel's MTU; answered with packet-too-big when possible */
	REASON_NO_CHECKSUM = 19,	/* UDP without checksum, and none can be made for its way from IPv4 to IPv6 */
	/* spoofing */
	REASON_SPOOFED_MAC = 20,	/* source MAC is not the ENI's */
	REASON_SPOOFED_ADDRESS = 21,	/* source address, or sender of ARP and neighbour discovery, is not the ENI's */
	REASON_BAD_OVERLAY = 22,	/* overlay address not canonical, other mesh, or tags and VPCs do not fit */
	/* no way */
	REASON_NO_DESTINATION = 30,	/* no such address in the VPC */
	REASON_NOT_HERE = 31,		/* destination ENI is not on this node */
	REASON_NO_LISTENER = 32,	/* endpoint has no listener for this protocol and port */
	REASON_NO_TARGET = 33,		/* no target in the pool */
	REASON_NO_FLOW = 34,		/* an answer, or the middle of a TCP connection, without a flow entry */
	REASON_NO_GRANT = 35,		/* receiver: no Available connection with this number */
	REASON_TARGET_NOT_GRANTED = 36,	/* receiver: the connection does not admit this target and port */
	REASON_HOST_NOT_ADMITTED = 37,	/* from or to the host itself, or to a port of the resolver other than 53 */
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
	REASON_SNAT_PORTS_EXHAUSTED = 51,	/* no source port: the connection's share is used up, or none of those tried is free */
	REASON_ACCOUNT_FLOWS_FULL = 52,	/* the opener's account has its share of the flow table */
	REASON_ENDPOINT_FLOWS_FULL = 53,	/* the endpoint connection has its share of its account's */
	REASON_CAP_CONNECTIONS = 54,	/* the service's cap: new connections per second of an endpoint connection */
	REASON_CAP_FLOWS = 55,		/* the service's cap: flows at a time of an endpoint connection */
	REASON_CAP_BITS = 56,		/* the service's cap: bits per second of an endpoint connection */
	REASON_LOG_UNAVAILABLE = 57,	/* the ENI's flow log must have every flow, and takes no records now */
	REASON_MESSAGE_RATE = 58,	/* another node's agent says more a second than one ever has to */
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
	VIEW_CLIENT = 6,	/* from a target to a client's own overlay address; vpc is the consumer's, tag the whole one */
};

enum key_bit { KEY_IPV6 = 0x80 };	/* in the byte of a view: the packet is IPv6 */

/* In families of ENIs and addresses: which they have. */
enum family {
	FAMILY_IPV4 = 1,
	FAMILY_IPV6 = 2,
};

enum eni_flag {
	ENI_STRICT_LOG = 1,	/* opens no flow, and gets none, while the node's flow log takes no records; decision 0030 */
};

enum next {
	NEXT_NONE = 0,
	NEXT_TUNNEL = 1,	/* in overlay form, culvert0 */
	NEXT_LOCAL = 2,		/* receive half on this node */
	NEXT_WORKLOAD = 3,	/* a workload's veth */
	NEXT_HOST = 4,		/* in overlay form, the host's veth */
};

enum flow_flag {
	FLOW_OPENING = 1,	/* entry of the direction that opened the flow */
	FLOW_DEAD = 2,		/* refused for good: permission withdrawn */
	FLOW_SOURCE_TAGGED = 4,	/* the number goes into the source address of the overlay packet */
	FLOW_DEST_TAGGED = 8,
	FLOW_CLOSED = 16,	/* TCP: RST seen, or FIN in both directions */
	FLOW_EXPIRED = 32,	/* its time is over: as good as absent, but a provider's port stays taken */
	FLOW_POLICED = 64,	/* its bits count against a cap */
};

/* How far a TCP connection is, from the flags of both directions. The opener's SYN makes SYN_SENT. */
enum tcp_state {
	TCP_NONE = 0,		/* not TCP */
	TCP_SYN_SENT = 1,
	TCP_SYN_RECEIVED = 2,	/* it was answered by a SYN */
	TCP_ESTABLISHED = 3,	/* the opener acknowledged */
	TCP_FIN_WAIT = 4,	/* one direction is finished */
	TCP_TIME_WAIT = 5,	/* both are */
	TCP_CLOSED = 6,		/* reset */
};

/* Whose part of what is bounded a quota is. */
enum quota_kind {
	QUOTA_NONE = 0,
	QUOTA_TABLE = 1,	/* flow entries of all */
	QUOTA_ACCOUNT = 2,	/* of the account that opens; id is its number in the plan */
	QUOTA_SENT = 3,		/* of an endpoint connection's consumer's half; id is its number */
	QUOTA_RECEIVED = 4,	/* of its provider's half */
	QUOTA_POOL = 5,		/* source ports of a load balancer's address toward one target */
	QUOTA_PORTS = 6,	/* an endpoint connection's of those; id is its number */
};

enum grant_target_flag {
	GRANT_TARGET_DRAINING = 1,	/* deregistered: keeps its flows and gets no new ones */
};

enum service_flag {
	SERVICE_STICKY = 1,	/* the target goes by the client's address alone */
};

/* What could not be kept: events, or packets. Each is counted, none changes a verdict. */
enum loss {
	LOSS_EVENTS = 0,	/* ring buffer full */
	LOSS_REFUSALS = 1,	/* map refusals full; the reason's counter has it */
	LOSS_COUNTERS = 2,	/* map counters full; counted with ENI 0 if that key exists */
	LOSS_RESETS = 3,	/* RSTs beyond the ENI's rate, not sent */
	LOSS_MAX = 4,
};

enum event_kind {
	EVENT_NONE = 0,
	EVENT_OPEN = 1,		/* of the opening entry */
	EVENT_CLOSE = 2,	/* of the entry whose packet closed the flow, with its counters so far */
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

struct path_key {		/* key of paths: the longest prefix counts */
	__u32 prefix;		/* bits of vpc and addr, 32..64 */
	__u32 vpc;		/* net */
	__u32 addr;		/* net */
};

struct path {			/* map paths: to addresses whose node is not reached with the tunnel's MTU */
	__u16 mtu;		/* bytes of an overlay packet */
	__u8 spare[6];
};

struct vpc_addr {		/* key of enis, addresses */
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
	__u8 families;		/* enum family */
	__u8 lane;		/* of the account: its queue to the tunnel; 0, as rows of before have it: that of all who have none */
	__u8 flags;		/* enum eni_flag; 0, as rows of before have it: none */
	__u8 spare[9];
	__u32 account;		/* number in the plan */
};

struct link {			/* map links, by ifindex: the ENI there, as in enis */
	struct vpc_addr at;
	struct eni eni;
};

struct address {		/* map addresses */
	__u32 type;		/* enum address_type */
	__u32 number;		/* of the ENI */
	__u32 rules;		/* endpoint: ingress rule set of its groups; load balancer: ingress */
	__u32 egress_rules;	/* load balancer */
	__u32 groups[LIMIT_GROUPS];
	__u8 families;		/* enum family */
	__u8 spare[11];
};

struct rule {
	__u32 addr;		/* net; of the IPv4 form, with mask, or 0/0 */
	__u32 mask;		/* net */
	__u32 vpc;		/* family 6, !=0: the peer's */
	__u32 group;		/* !=0: peer must be in this group, addr, mask, vpc and family unused */
	__u16 port_low;		/* inclusive; ICMP: type << 8 | code; 0..65535 with any protocol */
	__u16 port_high;
	__u16 protocol;		/* IANA number; 256: any */
	__u8 family;		/* 4 or 6: of the packet */
	__u8 spare;
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
	__u8 table_width;	/* bits of a slot in it: 1, 2, 4, 8, 16; 0: NO_TARGET */
	__u8 flags;		/* enum service_flag */
	__u16 pad;
	__u32 endpoint_eni;	/* number */
	__u32 idle_s;		/* seconds */
	__u16 tag;		/* number 1..32767 */
	__u16 pad2;
	__u8 spare[12];
};

struct target {			/* eight bytes, as every word of the inner arrays of target_tables; lib/balance.h */
	__u32 addr;		/* net */
	__u16 port;		/* net */
	__u16 spare;
};

struct grant_key {		/* key of grants, provider's node */
	__u32 vpc;		/* consumer's */
	__u32 tag;		/* number */
};

enum grant_flag {
	GRANT_PROXY = 1,	/* targets get a PROXY protocol header; TCP only */
	GRANT_INSIDE = 2,	/* a load balancer for its own VPC: no endpoint admits, and sources have groups */
	GRANT_CLIENT = 4,	/* targets that have IPv6 see the client's own address */
};

enum grant_limit { MAX_ENDPOINT_ID = 24 };	/* bytes */

struct grant {
	__u32 connection;
	__u32 provider_vpc;
	__u32 admitted;		/* rule set: the endpoint's ingress rules, port is the listener's */
	__u32 lb_rules;		/* rule set: load balancer ingress */
	__u32 lb_egress_rules;
	__u32 dialed_addr;	/* net */
	__u16 dialed_port;	/* net; the listener's */
	__u8 protocol;
	__u8 flags;		/* enum grant_flag */
	__u32 idle_s;
	__u32 account;		/* consumer's, its number in the plan */
	__u8 endpoint[MAX_ENDPOINT_ID];	/* id, for the PROXY protocol header */
	__u8 endpoint_len;
	__u8 spare[11];
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
	__u32 ports;		/* source ports toward this target that the connection is guaranteed */
	__u8 flags;		/* enum grant_target_flag */
	__u8 spare[3];
};

struct probe_key {		/* key of probes: what the node itself may open a TCP connection to */
	__u32 vpc;
	__u32 addr;		/* net; target */
	__u16 port;		/* net */
	__u16 pad;
};

struct probe {
	__u32 source;		/* net; load balancer's address, which the target sees */
	__u8 spare[12];
};

struct flow_key {
	__u32 vpc;
	__u32 saddr;		/* net */
	__u32 daddr;		/* net */
	__u16 sport;		/* net; ICMP echo: id, in the opening direction and in the answer */
	__u16 dport;		/* net; ICMP echo: 0 */
	__u16 tag;		/* number */
	__u8 view;		/* enum view, with KEY_IPV6 */
	__u8 protocol;
};

/* Times of TCP are told in ticks of 1,024 ns. */
enum tick { TICK_SHIFT = 10 };

/*
 * Map flows: one entry per direction, holding its whole rewrite. The other direction's key is not stored, reverse_key()
 * computes it. With 136 bytes an entry made on demand takes 256 of kernel memory, and would with 40 more.
 */
struct flow {
	__u64 id;		/* same in both entries: boot time of the first packet << 8 | CPU; 0 while being removed */
	__u64 last_ns;
	__u64 packets;		/* wire packets, offload expanded */
	__u64 bytes;		/* IP bytes as the workload has them */
	struct flow_key key;	/* must equal the key it was found by: hash elements are recycled */
	__u32 generation;	/* judged under */
	__u32 peer_vpc;		/* of the side that key.vpc is not: see flow_source_vpc() and flow_dest_vpc() */
	__u32 saddr;		/* net; after the rewrite, as are the next three */
	__u32 daddr;		/* net */
	__u16 sport;		/* net */
	__u16 dport;		/* net */
	__u16 tag;		/* number after the rewrite; also that of the other direction's key */
	__u8 next;		/* enum next */
	__u8 hook;		/* where this entry's packets enter */
	__u16 flags;		/* enum flow_flag */
	__u8 tcp_flags;		/* OR of all seen */
	__u8 reverse_view;	/* of the other direction's key, with KEY_IPV6 where packets are IPv6 after the rewrite */
	__u16 idle_s;		/* seconds */
	__u8 proxy;		/* bytes of the PROXY protocol header at its begin; 0: none */
	__u8 proxy_done;	/* 1: the target has acknowledged all of it */
	__u32 isn;		/* with proxy: the client's initial sequence number */
	__u32 front;		/* net; the load balancer's address, where the target sees the client's own instead */
	__u16 mtu;		/* bytes of an overlay packet, toward the other node; 0: config's tunnel_mtu */
	__u8 tcp_state;		/* enum tcp_state; the same in both entries */
	__u8 seq_known;		/* 1: next_seq is */
	__u32 account;		/* that opened it: number in the plan */
	__u32 eni;		/* number of the local ENI */
	__u32 connection;
	__u32 rule;		/* id of the rule that allowed it */
	__u32 next_seq;		/* TCP, lib/tcp.h: behind what this direction has sent */
	__u32 retransmits;	/* wire packets with bytes that it had sent before */
	__u64 timed;		/* sequence number << 32 | tick. Answering entry: what is being timed, 0 nothing; opening one: what was last */
	__u32 handshake;	/* opening entry: ticks from the SYN to the acknowledgement of the answer to it; 0: none was seen */
	__u32 rtt;		/* answering entry: ticks from the opener's segments to their acknowledgement, smoothed, eight times; 0: never timed */
};

/*
 * A datagram that comes in fragments: what its first one said. Nobody removes what is in use: after 30 s it is as good as
 * absent, and the agent sweeps.
 */
struct fragment_key {		/* key of fragments */
	__u32 vpc;
	__u32 saddr;		/* net */
	__u32 daddr;		/* net */
	__u32 id;
	__u16 tag;		/* number */
	__u8 view;		/* enum view, with KEY_IPV6 */
	__u8 protocol;
};

struct fragment {
	__u64 since_ns;
	struct fragment_key key;	/* must equal the key it was found by, as with flows */
	__u32 id;		/* after the translation */
	__u16 sport;		/* net */
	__u16 dport;		/* net */
	__u16 end;		/* bytes of the datagram that the first fragment holds */
	__u16 spare;
};

struct fragment_source {	/* key of fragment_rings */
	__u32 vpc;
	__u32 addr;		/* net */
	__u32 view;		/* enum view, with KEY_IPV6 */
};

struct fragment_slot {		/* the rest of a fragment_key */
	__u32 daddr;		/* net */
	__u32 id;
	__u16 tag;
	__u8 protocol;
	__u8 used;
};

struct fragment_ring {		/* the newest datagrams of a source: the next one takes the place of its oldest */
	__u64 last_ns;
	__u32 next;		/* counts up; modulo LIMIT_FRAGMENTS */
	__u32 account;		/* of the flow that made it: number in the plan */
	struct fragment_slot held[LIMIT_FRAGMENTS];
};

struct fragment_pair {		/* key of fragment_pairs: addresses after a translation of the source */
	__u32 vpc;		/* of both */
	__u32 saddr;		/* net */
	__u32 daddr;		/* net */
};

struct fragment_ids {		/* map fragment_pairs: the ids of a pair */
	__u64 last_ns;
	__u64 next;		/* counts up; IPv4 has its lowest 16 bits */
	__u64 open_ns;		/* boot time until which ids that are open to all are paid for */
	__u32 account;		/* that the row counts as one of, if it does: number in the plan */
	__u32 counts;
	__u64 began_ns[LIMIT_ID_BLOCKS];	/* when the first id of a block was last taken; 0 never */
};

struct fragment_share {		/* key of fragment_shares: a connection's part of a pair's ids. Value: as open_ns, for those kept */
	struct fragment_pair pair;
	__u32 connection;
};

/* What is counted in fragment_counts: rows that accounts have, and all together. */
enum fragment_rows {
	ROWS_NONE = 0,
	ROWS_RINGS = 1,
	ROWS_PAIRS = 2,
	ROWS_ALL = 0x100,	/* besides: of all accounts; account is 0 */
};

struct fragment_count {		/* key of fragment_counts. The programs count up, the agent's sweep says what is there */
	__u32 rows;		/* enum fragment_rows */
	__u32 account;		/* number in the plan */
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
	__u32 retransmits;
	__u32 handshake;
	__u32 rtt;
	__u16 flags;
	__u8 tcp_flags;
	__u8 tcp_state;
};

struct quota_key {		/* key of quotas and ports */
	__u32 kind;		/* enum quota_kind */
	__u32 id;		/* the rest is for POOL and PORTS */
	__u32 vpc;		/* provider's */
	__u32 source;		/* net; load balancer's address */
	__u32 target;		/* net */
	__u16 port;		/* net; target's */
	__u8 protocol;
	__u8 pad;
};

struct usage {			/* value of ports: the programs make rows, the agent drops those that are not used */
	__u64 used;		/* signed; USAGE_GONE: the row is being dropped */
	__u64 made;		/* ever; equal before and after a look, and used too: nothing happened between */
};

struct quota_limits {
	__u64 bits_per_s;	/* in each direction; 0: any */
	__u32 connections_per_s;	/* 0: any */
	__u32 most;		/* entries: the service's cap; 0: any */
	__u32 guaranteed;	/* entries it may have whatever others of its account, or of the table, have */
	__u32 ceiling;		/* entries */
	__u32 open;		/* entries in all from which on only those get one that have less than they are guaranteed */
	__u32 pad;
};

struct quota {			/* map quotas */
	struct usage usage;	/* entries */
	__u64 connect_ns;	/* boot time until which new connections are paid for, and so on */
	__u64 opening_ns;
	__u64 answering_ns;
	struct quota_limits limits;
};

/* How the agent writes rows of quotas in place: test-run input of set_quotas, as for mark_flows. */
enum quota_order_kind {
	QUOTA_SET = 1,		/* makes the row, or changes its limits */
	QUOTA_ADJUST = 2,	/* adds to used, if used and made are as given */
	QUOTA_DROP = 3,		/* removes the row, if it is not used */
	QUOTA_ORDERS = 32,		/* struct quota_order in one run */
};

struct quota_order {
	struct quota_key key;
	__u32 order;		/* enum quota_order_kind */
	__u32 done;		/* answer: 1 */
	__u64 used;
	__u64 made;
	__u64 amount;		/* signed */
	struct quota_limits limits;
};

/* How the agent writes rows that a table has already: test-run input of set_rows, as for mark_flows. Decision 0019. */
enum row_table {
	ROW_NONE = 0,
	ROW_LINK = 1,
	ROW_ENI = 2,
	ROW_ADDRESS = 3,
	ROW_SERVICE = 4,
	ROW_GRANT = 5,
	ROW_GRANT_TARGET = 6,
	ROW_FRAGMENT_COUNT = 7,
	ROW_PROBE = 8,
};

enum row_limit {
	ROW_KEY = 16,		/* bytes, of the longest key */
	ROW_WORDS = 9,		/* of the largest row */
	ROW_ORDERS = 32,	/* struct row_order in one run */
};

struct row_order {
	__u32 table;		/* enum row_table */
	__u32 done;		/* answer: 1; 0: there is no such row */
	__u8 key[ROW_KEY];
	__u64 words[ROW_WORDS];
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
	__u8 hook;		/* with KEY_IPV6 */
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
	__u8 reverse_view;	/* as in struct flow; 0 for refusals */
	__u16 flags;
	__u8 tcp_state;		/* enum tcp_state */
	__u8 pad[3];
	__u32 retransmits;	/* as in struct flow, with which handshake and rtt come */
	__u32 handshake;
	__u32 rtt;
};

/* Left behind for tests by the one helper that ends a program: test runs do not show where a redirect goes. */
struct outcome {		/* map outcome, per CPU array of one */
	__u32 verdict;		/* TC_ACT_* */
	__u32 reason;
	__u32 ifindex;
	__u32 next;
};

#endif
