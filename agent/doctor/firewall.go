package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// firewall judges what lets packets of other nodes in. Whether a rule accepts a port is read off the rules; of what they
// say besides, such as from which addresses, nothing is known here, so an accepting rule is taken at its word.
func firewall(f Facts) []Finding {
	const check = "firewall"
	if f.ChainsError != nil {
		return one(check, Unknown, "", "nftables cannot be read: %v", f.ChainsError)
	}
	var out []Finding
	for _, c := range f.Chains {
		var shut []Port
		for _, p := range f.Ports {
			if !c.Admits(p) {
				shut = append(shut, p)
			}
		}
		where := fmt.Sprintf("chain %s of table %s %s", c.Name, c.Family, c.Table)
		switch {
		case len(shut) == 0 && !c.Closed:
			continue
		case len(shut) == 0:
			out = append(out, one(check, OK, "", "%s lets the node's ports in", where)...)
			continue
		}
		out = append(out, one(check, Failure, openPorts(c, shut),
			"%s does not let %s in", where, list(shut))...)
	}
	for _, family := range f.Legacy {
		out = append(out, one(check, Unknown, "see that iptables-legacy -S INPUT (ip6tables-legacy) lets the node's ports in",
			"there are rules of the old iptables for %s, which are not looked into", family)...)
	}
	if len(out) == 0 {
		out = one(check, OK, "", "no rule of nftables keeps the node's ports shut")
	}
	return out
}

// list names ports, with what they are for where that is not the underlay.
func list(ports []Port) string {
	var words []string
	for _, p := range ports {
		word := fmt.Sprintf("%s/%d", p.Protocol, p.Port)
		if p.By != "" {
			word += fmt.Sprintf(" from %s (%s)", p.By, p.Name)
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// openPorts is the command that opens ports in a chain. What comes by an interface of the node's own is the workloads'.
func openPorts(c Chain, ports []Port) string {
	var cmds []string
	opened := map[string]bool{}
	for _, p := range ports {
		switch {
		case c.Table == firewalld && p.By == "":
			cmds = append(cmds, fmt.Sprintf("firewall-cmd --permanent --add-port=%d/%s", p.Port, p.Protocol))
		case c.Table == firewalld && !opened[p.By]:
			cmds = append(cmds, "firewall-cmd --permanent --zone=trusted --add-interface="+p.By)
		case c.Table == firewalld:
		case p.By != "":
			cmds = append(cmds, fmt.Sprintf("nft insert rule %s %s %s iifname %s %s dport %d accept", c.Family, c.Table, c.Name, p.By, p.Protocol, p.Port))
		default:
			cmds = append(cmds, fmt.Sprintf("nft insert rule %s %s %s %s dport %d accept", c.Family, c.Table, c.Name, p.Protocol, p.Port))
		}
		opened[p.By] = true
	}
	if c.Table == firewalld {
		return strings.Join(append(cmds, "firewall-cmd --reload"), " && ")
	}
	return strings.Join(cmds, "; ")
}

// firewalld is the name of firewalld's nftables table.
const firewalld = "firewalld"

// reversePath judges checks of the way back, which drop packets that come by another interface than answers would leave by.
func reversePath(f Facts) []Finding {
	const check = "reverse path"
	var out []Finding
	if f.RPFilter == 1 && len(f.Underlays) > 1 {
		out = append(out, one(check, Warning, "sysctl -w net.ipv4.conf.all.rp_filter=2 (loose) if handshakes do not come through",
			"net.ipv4.conf.all.rp_filter is 1 (strict): on a machine with several ways out, the underlay's packets may be dropped")...)
	}
	if f.ReversePath != "" && slices.ContainsFunc(f.Underlays, func(u Underlay) bool { return u.IPv6 }) {
		remedy := "make that rule check that there is any way back, if handshakes do not come through"
		if strings.HasSuffix(f.ReversePath, " "+firewalld) {
			remedy = "set IPv6_rpfilter=loose in /etc/firewalld/firewalld.conf, if handshakes do not come through"
		}
		out = append(out, one(check, Warning, remedy,
			"table %s drops IPv6 packets that come by another interface than answers would leave by", f.ReversePath)...)
	}
	if len(out) == 0 {
		out = one(check, OK, "", "nothing drops the underlay's packets for the way they come")
	}
	return out
}
