// Package tunnel is the body of the process `culvert tunnel`: a user-space WireGuard device that has a process of its
// own, so that an agent may die, start anew or be replaced without a packet noticing.
//
// The protocol and its cryptography are golang.zx2c4.com/wireguard's, unchanged. Around it stand our own parts, all on
// its public interfaces:
//
//	            ┌────────────────────────── process ──────────────────────────┐
//	interface ──┤ tun.Device ─ gate ─► encrypt, in order ─► gate ─ conn.Bind  ├── UDP
//	            └ budget of peers without session · path MTU · control socket ┘
//
// The gate lets at most 256 packets be inside the device each way. What does not fit waits in the kernel's queues,
// where a sender feels it at once, instead of in 64 KiB buffers by the thousand: that is both faster and leaner.
//
// The interface has a queue for each of 64 lanes, which are accounts (decision 0018): what floods fills its own queue, and
// the reader serves all in turns.
//
// What is on its way to a peer is bounded by a window, so that it waits in the lanes and not in the sockets of a receiver that
// is slower, where all accounts' packets stand in one queue.
//
// The interface is persistent: it outlives the process, and with it the BPF programs attached to it. It is created
// down; whoever attaches the programs sets it up, and the UDP port opens when that happens. A process that was killed
// starts without keys and is fed anew through its socket. One that is upgraded replaces itself by execve and keeps the
// interface attached, the port bound and the peers; sessions start anew at once. Measured at a datagram per millisecond:
// 5 to 15 lost, and connections live on.
//
// What the way to each peer carries is measured by probes inside the tunnel (decision 0013): they are put in where packets
// of the interface are read, and taken out where packets for it are written. [Meter] does the same in another process,
// beside a device that measures nothing: the kernel's WireGuard.
package tunnel
