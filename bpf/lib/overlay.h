/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Overlay addresses, decision 0002; the Go twin is api/overlay.go. */
#ifndef CULVERT_OVERLAY_H
#define CULVERT_OVERLAY_H

enum { TAG_IPV4 = 0x8000 };

struct overlay {
	__u32 vpc;
	__u32 addr;	/* net */
	__u16 tag;	/* family bit and number */
};

/* The word that makes all others but the host's sum to zero. */
static __always_inline __u32 overlay_adj(__u32 mesh, __u32 vpc, __u32 tag)
{
	__u32 sum = 0xfd00 + (mesh >> 16 & 0xff) + (mesh & 0xffff) + (vpc >> 16) + (vpc & 0xffff) + tag;

	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return 0xffff - sum;
}

static __always_inline void overlay_write(__u32 *words, __u32 mesh, __u32 vpc, __u32 addr, __u32 tag)
{
	words[0] = bpf_htonl(0xfd000000 | (mesh & 0xffffff));
	words[1] = bpf_htonl(vpc);
	words[2] = addr;
	words[3] = bpf_htonl(tag << 16 | overlay_adj(mesh, vpc, tag));
}

/* Only the canonical form of this mesh is an address. */
static __always_inline bool overlay_read(const __u32 *words, __u32 mesh, struct overlay *o)
{
	__u32 last = bpf_ntohl(words[3]);

	o->vpc = bpf_ntohl(words[1]);
	o->addr = words[2];
	o->tag = last >> 16;
	return bpf_ntohl(words[0]) == (0xfd000000 | (mesh & 0xffffff)) &&
	       (last & 0xffff) == overlay_adj(mesh, o->vpc, o->tag);
}

#endif
