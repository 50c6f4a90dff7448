/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* What the path to a flow's other node carries: decision 0013. It stands in both entries, and is read when they are judged. */
#ifndef CULVERT_PATH_H
#define CULVERT_PATH_H

__noinline int path_mtu(__u32 vpc, __u32 addr)
{
	struct path_key key = { .prefix = 64, .vpc = bpf_htonl(vpc), .addr = addr };
	const struct path *path = bpf_map_lookup_elem(&paths, &key);

	return path ? path->mtu : 0;
}

/* For the flow of an opening entry: 0 where its packets do not leave the node, or the path carries what the tunnel does. */
static __always_inline __u16 flow_path(const struct flow *open)
{
	if (key_view(&open->key) == VIEW_WORKLOAD)
		return open->next == NEXT_TUNNEL ? path_mtu(flow_dest_vpc(open), open->daddr) : 0;
	return open->hook == HOOK_TUNNEL ? path_mtu(flow_source_vpc(open), open->key.saddr) : 0;
}

/* The largest overlay packet of a flow, in bytes. */
static __always_inline __u16 flow_mtu(const struct config *config, const struct flow *f)
{
	return f->mtu && f->mtu < config->tunnel_mtu ? f->mtu : config->tunnel_mtu;
}

#endif
