/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* One's complement sums, RFC 1071 and RFC 1624. */
#ifndef CULVERT_SUM_H
#define CULVERT_SUM_H

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return sum;
}

/* What bpf_csum_diff tells, of words known at compile time: a helper takes longer than their sums. Of two words that change. */
static __always_inline __u32 pair_diff(const __u32 *from, const __u32 *to)
{
	__u64 sum = (__u64)to[0] + to[1] + (__u32)~from[0] + (__u32)~from[1];

	sum = (sum >> 32) + (sum & 0xffffffff);
	return (sum >> 32) + sum;
}

/* The same, of ports. */
static __always_inline __u32 ports_diff(const __u16 *from, const __u16 *to)
{
	return (__u32)to[0] + to[1] + (__u16)~from[0] + (__u16)~from[1];
}

/* A checksum after what it covers has changed by the difference that bpf_csum_diff tells. */
static __always_inline __u16 update_sum(__u16 check, __s64 diff)
{
	return ~fold((__u64)(__u32)diff + (__u16)~check);
}

#endif
