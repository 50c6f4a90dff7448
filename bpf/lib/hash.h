/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * The hash that picks a slot of a target table and the ports tried at SNAT: MurmurHash3 (32 bits) of five words, with the salt as
 * seed. plan/hash.go is its twin; plan/hash_test.go and bpf's tests hold both to the same values.
 */
#ifndef CULVERT_HASH_H
#define CULVERT_HASH_H

static __always_inline __u32 hash_rotate(__u32 x, __u32 bits)
{
	return x << bits | x >> (32 - bits);
}

static __always_inline __u32 hash_word(__u32 h, __u32 word)
{
	word *= 0xcc9e2d51;
	word = hash_rotate(word, 15);
	word *= 0x1b873593;
	return hash_rotate(h ^ word, 13) * 5 + 0xe6546b64;
}

/* All integers host order: network-order fields read big-endian. */
static __always_inline __u32 hash_tuple(__u32 saddr, __u32 daddr, __u32 ports, __u32 protocol, __u32 vpc, __u32 salt)
{
	__u32 h = salt;

	h = hash_word(h, saddr);
	h = hash_word(h, daddr);
	h = hash_word(h, ports); /* sport << 16 | dport */
	h = hash_word(h, protocol);
	h = hash_word(h, vpc);
	h ^= 20; /* bytes */
	h ^= h >> 16;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	return h ^ h >> 16;
}

/* The hash of a flow key; its tag takes part by the salt, its view does not. */
static __always_inline __u32 hash_key(const struct flow_key *k, __u32 salt)
{
	return hash_tuple(bpf_ntohl(k->saddr), bpf_ntohl(k->daddr),
			  (__u32)bpf_ntohs(k->sport) << 16 | bpf_ntohs(k->dport), k->protocol, k->vpc, salt);
}

#endif
