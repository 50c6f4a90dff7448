// Package host is the agent's edge to the kernel's network configuration: links, addresses, routes, sysctls, the door
// and the resolver file of a namespace. It alone imports netlink and nftables. Linux only (≥ 6.1).
//
// "The host" is the network namespace the agent runs in. The package owns there:
//
//   - culvert-host and culvert-dp, a veth pair by which the host itself takes part in the mesh;
//   - one veth per workload, cv… on the host side, eni0 (or another name) in the workload's namespace;
//   - the nftables tables "netdev culvert" and "inet culvert", which are the doors;
//   - culvert0, where the tunnel is the kernel's WireGuard.
//
// It marks its links by an alias that begins with "culvert:" and touches no other link, with one exception: where the
// tunnel is a process, culvert0 is a TUN that this process makes, and this package only sets its properties.
//
// # The door
//
// Programs are attached between the creation of a link and the moment it goes up. Should a program ever be missing,
// the host's own stack would see a tenant's packets. So every link that carries tenants' packets has an ingress chain
// with policy drop and no rule. The kernel runs it after tcx programs, and redirected packets never reach it: what a
// program decides on is not affected, and what no program decides on is dropped. SetUp refuses to put a link up
// without it.
//
// The host's own end carries what programs let through to the host, which is meant for the resolver and the agent alone. Its
// door lets pass what comes from the mesh to the host's overlay address and the resolver's port, from other nodes to the
// agent's, and what answers connections of the host's own, each while it is wanted, and drops everything else: no other
// socket of the host is reached, whatever a program does or somebody listens on, also while no agent runs.
//
// # The resolver
//
// What runs in a named namespace finds the VPC's resolver in /etc/netns/NAME/resolv.conf, which `ip netns exec` binds over
// /etc/resolv.conf. A process that an attachment names gets a file mounted there, among its own mounts only: read-only,
// in a file system of its own whose source is "culvert:…" and tells whose it is. None of its files is written to, none of
// its links is followed out of its root, and nobody outside its network namespace sees the file: the host never.
//
// # Seal and Fence
//
// A door goes with nft flush ruleset. Behind it each link that carries tenants' packets has settings that keep the host's
// stack off it: no IPv6, no ARP, no address, strict checks of sources, no forwarding. Fence puts back both for all links
// that are there, whatever else is wrong, and Repairs tells what it found changed. Decision 0007.
//
// # Rules
//
// Operations are idempotent: making what is there changes nothing, deleting what is absent succeeds. A refused Attach
// has changed nothing. Nothing is remembered between calls: what exists is read from the kernel each time, so the
// state survives a restart of the agent, and a person's hand is noticed.
//
// Host is the interface; Netlink is the kernel, Mem is its twin in memory. One contract test runs on both.
package host
