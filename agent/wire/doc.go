// Package wire is the edge to WireGuard: the keys, the peers and what may be asked of a device.
//
// A [Device] is one WireGuard interface of this node. [UAPI] drives one that lives in another process, over the
// cross-platform configuration protocol (https://www.wireguard.com/xplatform/) on a Unix socket named by path. A path,
// not an interface name: tools that find user-space devices by name look in one directory that all network namespaces
// share, and confuse two devices of one name in two namespaces. [Mem] is the in-memory twin; one contract test runs
// against both.
//
// What is set is declared whole per peer: [Diff] compares the peers wanted with the state observed and gives the
// [Change] that leads there. Nothing here holds state between calls, so an agent that starts anew simply observes.
package wire
