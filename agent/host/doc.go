// Package host is the agent's edge to the kernel's network configuration: links, addresses, routes, sysctls, the door
// and the resolver file of a namespace. It alone imports netlink and nftables. Linux only (≥ 6.1).
//
// "The host" is the network namespace the agent runs in. The package owns there:
//
//   - culvert-host and culvert-dp, a veth pair by which the host itself takes part in the mesh;
//   - one veth per workload, cv… on the host side, eni0 (or another name) in the workload's namespace;
//   - the nftables table "netdev culvert", which is the door.
//
// It marks its links by an alias that begins with "culvert:" and touches no other link, with one exception: the
// tunnel's TUN (culvert0) is made by the tunnel process, and this package only sets its properties.
//
// # The door
//
// Programs are attached between the creation of a link and the moment it goes up. Should a program ever be missing,
// the host's own stack would see a tenant's packets. So every link that carries tenants' packets has an ingress chain
// with policy drop and no rule. The kernel runs it after tcx programs, and redirected packets never reach it: what a
// program decides on is not affected, and what no program decides on is dropped. SetUp refuses to put a link up
// without it.
//
// # Rules
//
// Operations are idempotent: making what is there changes nothing, deleting what is absent succeeds. A refused Attach
// has changed nothing. Nothing is remembered between calls: what exists is read from the kernel each time, so the
// state survives a restart of the agent, and a person's hand is noticed.
//
// Host is the interface; Netlink is the kernel, Mem is its twin in memory. One contract test runs on both.
package host
