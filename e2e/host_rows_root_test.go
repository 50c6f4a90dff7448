package e2e

// hostFault is one thing that others do to a host. In scripts CART is the host's end of cart's interface, VISITOR of
// visitor's, LINKS are all that carry tenants' packets.
type hostFault struct {
	name   string
	script string   // run in host-a, by sh -e
	bpf    string   // done with BPF before the script: detach, or first-VERDICT: another's tcx program before ours
	undo   string   // run after the fault was put right
	says   []string // parts of what culvert status must say
	// lasts: it is not put right, and must not matter.
	lasts bool
	// bare: nothing is left at the way from the host to a workload, and what the host's own programs write there arrives
	// until it is put right. docs/THREATS.md has it.
	bare bool
}

// hostFaults in the order in which they are done. On all of them host-a forwards, IPv4 and IPv6, and checks no sources.
var hostFaults = []hostFault{
	{name: "nft flush ruleset", script: `nft flush ruleset`,
		says: []string{"the door of CART", "the door of culvert0", "the door of culvert-dp", "the door of culvert-host"}},
	{name: "iptables -F, masquerade",
		script: `iptables-nft -P FORWARD ACCEPT; iptables-nft -A INPUT -j ACCEPT; iptables-nft -F
			iptables-nft -t nat -A POSTROUTING -j MASQUERADE`,
		undo: `nft 'delete table ip filter; delete table ip nat'`, lasts: true},
	{name: "programs detached", bpf: "detach",
		says: []string{"from_workload was detached from CART", "from_tunnel was detached from culvert0",
			"guard was detached from culvert0", "from_host was detached from culvert-dp"}},
	{name: "programs detached, nft flush ruleset", bpf: "detach", script: `nft flush ruleset`,
		says: []string{"from_workload was detached from CART", "the door of CART"}},
	{name: "clsact removed", script: `for l in LINKS; do tc qdisc del dev $l clsact; done`,
		says: []string{"the fence (tc filter culvert_fence) of CART"}},
	{name: "programs detached, clsact removed", bpf: "detach", bare: true,
		script: `for l in LINKS; do tc qdisc del dev $l clsact; done`,
		says:   []string{"from_workload was detached from CART", "the fence (tc filter culvert_fence) of CART"}},
	{name: "clsact removed, nft flush ruleset",
		script: `for l in LINKS; do tc qdisc del dev $l clsact; done; nft flush ruleset`,
		says:   []string{"the fence (tc filter culvert_fence) of CART", "the door of CART"}},
	{name: "programs detached, clsact removed, nft flush ruleset", bpf: "detach", bare: true,
		script: `for l in LINKS; do tc qdisc del dev $l clsact; done; nft flush ruleset`,
		says:   []string{"from_workload was detached from CART"}},
	{name: "another program passes ours by", bpf: "first-pass",
		says: []string{"from_workload was not the first program of CART"}},
	{name: "another program passes ours by, nft flush ruleset", bpf: "first-pass", script: `nft flush ruleset`,
		says: []string{"from_workload was not the first program of CART", "the door of CART"}},
	{name: "another program drops before ours", bpf: "first-drop",
		says: []string{"from_workload was not the first program of CART"}},
	{name: "another program sends to a neighbour", bpf: "first-redirect",
		says: []string{"from_workload was not the first program of CART"}},
	{name: "tc filters of others",
		script: `for l in CART VISITOR; do
			tc filter add dev $l ingress pref 1 protocol all u32 match u32 0 0 action mirred egress redirect dev other0; done`,
		undo: `for l in CART VISITOR; do tc filter del dev $l ingress pref 1; done`, lasts: true},
	{name: "ip_forward",
		script: `sysctl -qw net.ipv4.ip_forward=0; sysctl -qw net.ipv4.ip_forward=1
			sysctl -qw net.ipv6.conf.all.forwarding=1`,
		says: []string{"net/ipv4/conf/CART/forwarding was 1; set to 0"}},
	{name: "forwarding and rp_filter by interface",
		script: `for l in LINKS culvert-host; do sysctl -qw net.ipv4.conf.$l.forwarding=1 net.ipv4.conf.$l.rp_filter=0
			done`,
		says: []string{"net/ipv4/conf/CART/rp_filter was 0; set to 1"}},
	{name: "ip_forward, programs detached, nft flush ruleset", bpf: "detach",
		script: `sysctl -qw net.ipv4.ip_forward=0; sysctl -qw net.ipv4.ip_forward=1; nft flush ruleset`,
		says:   []string{"the door of CART"}},
	{name: "addresses flushed", script: `ip addr flush dev culvert-host`,
		says: []string{" of culvert-host was gone; added again"}},
	{name: "addresses and IPv6 added",
		// The agent may put IPv6 back before the address is there: then again.
		script: `for l in CART culvert-dp; do ip addr add 192.0.2.129/25 dev $l; added=
			for n in 1 2 3 4 5 6 7 8; do sysctl -qw net.ipv6.conf.$l.disable_ipv6=0
				ip -6 addr add 2001:db8:7::1/64 dev $l nodad 2>/dev/null && added=1 && break; done
			[ $added ] || exit 1; done`,
		says: []string{"net/ipv6/conf/CART/disable_ipv6 was 0; set to 1", "CART had been given the address 192.0.2.129/25"}},
	{name: "links down", script: `for l in CART culvert0 culvert-dp culvert-host; do ip link set $l down; done`,
		says: []string{"CART of ", "culvert0 was down; put up again"}},
	{name: "host link deleted", script: `ip link del culvert-host`,
		says: []string{"culvert-dp was gone; there is a new one"}},
	{name: "links renamed",
		// The agent may come in between, put it up and give it back its name.
		script: `for l in culvert0 culvert-dp culvert-host; do
			for n in 1 2 3 4 5 6 7 8; do ip link set $l down; ip link set $l name x-$l && break; done
			ip link set x-$l up || ip link set $l up; done`,
		says: []string{"culvert0 had been renamed to x-culvert0", "culvert-host had been renamed to x-culvert-host"}},
	{name: "mtu", script: `for l in LINKS culvert-host; do ip link set $l mtu 1300; done`,
		says: []string{"mtu of culvert0 was 1300; set to 1420"}},
	{name: "neighbours flushed", script: `ip neigh flush nud all dev culvert-host`,
		says: []string{"neighbour fe80::1 of culvert-host was gone"}},
	{name: "routes to workloads",
		script: `ip route add 10.0.1.5/32 dev CART; ip route add 198.51.100.0/24 dev culvert0
			ip route add 10.0.1.8/32 dev VISITOR
		ip neigh add 10.0.1.5 lladdr CARTMAC dev CART nud permanent || true`,
		undo: `ip route del 10.0.1.5/32; ip route del 198.51.100.0/24; ip route del 10.0.1.8/32
			ip neigh flush nud all dev CART`, lasts: true},
	{name: "routing rules",
		script: `ip rule add pref 10 iif CART lookup 100; ip rule add pref 11 iif VISITOR lookup 100
			ip route add default via 192.0.2.2 table 100`,
		undo: `ip rule del pref 10; ip rule del pref 11; ip route flush table 100`, lasts: true},
	{name: "a bridge",
		script: `ip link add br-x type bridge; ip link set br-x up; ip link set CART master br-x
			ip link set VISITOR master br-x; ip link set other0 master br-x`,
		undo: `ip link del br-x; ip addr replace 192.0.2.1/24 dev other0`,
		says: []string{"CART had been made a part of another interface"}},
	// Of the kernel's own kind where it has the module: the agent must not take it for its own.
	{name: "another tunnel", script: `ip link add wg-x type wireguard || ip tuntap add wg-x mode tun; ip link set wg-x up
			ip addr add 10.8.0.1/16 dev wg-x
		ip route add default dev wg-x table 51820; ip rule add pref 20 not fwmark 51820 lookup 51820
			ip rule add pref 19 lookup main suppress_prefixlength 0`,
		undo: `ip rule del pref 20; ip rule del pref 19; ip link del wg-x`, lasts: true},
	{name: "the mesh's addresses elsewhere, nft flush ruleset",
		script: `ip -6 addr add MESH dev other0 nodad; nft flush ruleset`,
		undo:   `ip -6 addr del MESH dev other0`, says: []string{"overlaps the mesh's", "the door of CART"}},
	{name: "pins removed", script: `rm -r PINS`, says: []string{"were removed; pinned again"}},
}
