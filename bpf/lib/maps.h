/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Every map. Sizes here are those of tests; agent/datapath sets its own on the spec. */
#ifndef CULVERT_MAPS_H
#define CULVERT_MAPS_H

#define MAP(NAME, TYPE, KEY, VALUE, ENTRIES, FLAGS)	\
	struct {					\
		__uint(type, BPF_MAP_TYPE_##TYPE);	\
		__uint(max_entries, ENTRIES);		\
		__uint(map_flags, FLAGS);		\
		__type(key, KEY);			\
		__type(value, VALUE);			\
	} NAME SEC(".maps")

/* Tables that a plan fills. Nothing in them, nothing passes. */
MAP(config, ARRAY, __u32, struct config, 1, 0);
MAP(links, HASH, __u32, struct link, 1024, 0);		/* by ifindex */
MAP(enis, HASH, struct vpc_addr, struct eni, 1024, 0);
MAP(addresses, HASH, struct vpc_addr, struct address, 4096, BPF_F_NO_PREALLOC);
MAP(services, HASH, struct service_key, struct service, 4096, BPF_F_NO_PREALLOC);
MAP(grants, HASH, struct grant_key, struct grant, 4096, BPF_F_NO_PREALLOC);
MAP(grant_targets, HASH, struct grant_target_key, struct grant_target, 16384, BPF_F_NO_PREALLOC);
MAP(probes, HASH, struct probe_key, struct probe, 4096, BPF_F_NO_PREALLOC);
MAP(log_ready, ARRAY, __u32, __u64, 1, 0);	/* boot time until which the node's flow log takes records; the agent renews it */
MAP(paths, LPM_TRIE, struct path_key, struct path, 4096, BPF_F_NO_PREALLOC);

/* State spanning several keys is built aside and swapped by one update of the outer map. */
struct rule_set_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rule_set);
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__array(values, struct rule_set_map);
} rule_sets SEC(".maps");

struct target_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP);	/* tables differ in size */
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);	/* lib/balance.h */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__array(values, struct target_map);
} target_tables SEC(".maps");

/*
 * What the programs write. Flows are never evicted by the kernel: a full table refuses, the agent sweeps. Their entries
 * are made in advance unless agent/datapath is told that memory is scarce: one made on demand takes longer.
 */
MAP(flows, HASH, struct flow_key, struct flow, 4096, 0);
MAP(fragments, HASH, struct fragment_key, struct fragment, 4096, BPF_F_NO_PREALLOC);
MAP(fragment_rings, HASH, struct fragment_source, struct fragment_ring, 64, BPF_F_NO_PREALLOC);
MAP(fragment_pairs, HASH, struct fragment_pair, struct fragment_ids, 256, BPF_F_NO_PREALLOC);
MAP(fragment_shares, HASH, struct fragment_share, __u64, 1024, BPF_F_NO_PREALLOC);
MAP(fragment_counts, HASH, struct fragment_count, __u64, 256, BPF_F_NO_PREALLOC);
MAP(quotas, HASH, struct quota_key, struct quota, 4096, BPF_F_NO_PREALLOC);
MAP(ports, HASH, struct quota_key, struct usage, 4096, BPF_F_NO_PREALLOC);
MAP(resets, LRU_HASH, __u32, __u64, 1024, 0);		/* by ENI: until when its RSTs are paid for */
MAP(messages, LRU_HASH, __u32, __u64, 1024, 0);		/* by node: likewise what its agent tells this node's */
MAP(counters, PERCPU_HASH, struct counter_key, struct counter, 2048, 0);
MAP(refusals, HASH, struct refusal_key, struct refusal, 1024, 0);
MAP(losses, PERCPU_ARRAY, __u32, __u64, LOSS_MAX, 0);
MAP(outcome, PERCPU_ARRAY, __u32, struct outcome, 1, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

/* Private to one load of the programs: their layout may change without a new ABI version. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} programs SEC(".maps");

enum program { PROGRAM_RECEIVE_LOCAL = 0 };

MAP(scratch, PERCPU_ARRAY, __u32, struct scratch, 1, 0);

#endif
