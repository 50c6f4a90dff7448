//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Attached to the resolver's UDP socket: it drops what a workload asks above its rate before it is queued, so that one that floods
 * does not fill the queue that all of the node's workloads share. An object of its own: it shares nothing with the datapath.
 */

#include "lib/kernel.h"

/* Nanoseconds between two queries of one workload at its rate, and how far it may be ahead of that. Set before loading. */
const volatile __u64 query_interval;
const volatile __u64 query_burst;

/* When a workload's bucket is full again, by its overlay address; who is not there has a full one. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u8[16]);
	__type(value, __u64);
} query_full SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} query_dropped SEC(".maps");

enum { SOURCE_OFFSET = 8, KEEP = 0xffff }; /* of an IPv6 header; more than a datagram has */

SEC("socket")
int limit_queries(struct __sk_buff *skb)
{
	__u64 now = bpf_ktime_get_ns(), *full, *dropped, next;
	__u8 source[16];
	__u32 zero = 0;

	if (bpf_skb_load_bytes_relative(skb, SOURCE_OFFSET, source, sizeof(source), BPF_HDR_START_NET))
		return KEEP; /* the server looks at it */
	full = bpf_map_lookup_elem(&query_full, source);
	if (!full) {
		next = now + query_interval;
		bpf_map_update_elem(&query_full, source, &next, BPF_ANY);
		return KEEP;
	}
	next = (*full > now ? *full : now) + query_interval;
	if (next - now > query_burst) {
		dropped = bpf_map_lookup_elem(&query_dropped, &zero);
		if (dropped)
			(*dropped)++;
		return 0;
	}
	*full = next; /* two CPUs at once may let in one too many */
	return KEEP;
}

char license_text[] SEC("license") = "GPL";
