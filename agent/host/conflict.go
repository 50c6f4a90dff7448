package host

import (
	"fmt"
	"net/netip"
	"strings"
)

// Conflict is one thing in the way of an attachment.
type Conflict struct {
	What   string // what is there
	Remedy string // what to do about it
}

// ConflictError lists everything in the way; nothing has been changed. It is ErrConflict.
type ConflictError struct {
	Subject   string
	Conflicts []Conflict
}

// Error names each conflict and its remedy.
func (e *ConflictError) Error() string {
	parts := make([]string, len(e.Conflicts))
	for i, c := range e.Conflicts {
		parts[i] = c.What + " (" + c.Remedy + ")"
	}
	return e.Subject + ": conflict: " + strings.Join(parts, "; ")
}

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// spaceState is what is configured in a namespace, as far as an attachment could collide with it.
type spaceState struct {
	links     []spaceLink
	addresses []spaceAddress
	routes    []spaceRoute // main table
}

type spaceLink struct {
	ifindex int
	name    string
}

type spaceAddress struct {
	ifindex int
	name    string
	prefix  netip.Prefix // not masked
}

type spaceRoute struct {
	ifindex int    // 0: none, such as a blackhole
	name    string // of the interface
	dst     netip.Prefix
	ours    bool // made by an attachment
}

// workloadConflicts finds what stands in the way of an attachment. own is the ifindex of the attachment's own
// interface if it is there already, else 0.
//
// Anything on another interface that touches the VPC's range collides, whatever its length: a longer prefix would
// take traffic from the VPC, a shorter one would lose traffic to it. A default route collides only if the attachment
// wants one too, and the resolver's link-local address only with itself: wider link-local routes keep all else, and
// of several attachments in one namespace the first one's resolver answers there.
func workloadConflicts(s WorkloadSpec, st spaceState, own int) []Conflict {
	var out []Conflict
	for _, l := range st.links {
		if l.name == s.Interface && l.ifindex != own {
			out = append(out, Conflict{
				What:   fmt.Sprintf("interface %s exists", l.name),
				Remedy: "choose another name with --interface " + freeName(st.links) + ", or remove it",
			})
		}
	}
	resolver := netip.PrefixFrom(ResolverAddress, ResolverAddress.BitLen())
	for _, a := range st.addresses {
		if a.ifindex == own {
			continue
		}
		if overlapped(s, a.prefix).IsValid() || a.prefix.Addr() == ResolverAddress && !s.IPv6Only {
			out = append(out, Conflict{
				What:   fmt.Sprintf("address %s on %s overlaps the VPC's %s", a.prefix, a.name, rangeOf(s, a.prefix)),
				Remedy: fmt.Sprintf("remove it: ip address del %s dev %s, or use another namespace", a.prefix, a.name),
			})
		}
	}
	for _, r := range st.routes {
		if r.ifindex == own && own != 0 {
			continue
		}
		switch {
		case r.dst.Bits() == 0:
			if s.DefaultRoute && overlapped(s, r.dst).IsValid() && r.name != "lo" { // by lo the kernel has one that refuses
				out = append(out, Conflict{
					What:   "a default route exists" + via(r.name),
					Remedy: "leave out --default-route, or remove it: " + ipCommand(r.dst, "route del default") + devOf(r.name),
				})
			}
		case r.ours && s.IPv6Address.IsValid() && r.dst == s.mesh(): // another attachment's; this one's own are longer
		case overlapped(s, r.dst).IsValid() || r.dst == resolver && !r.ours && !s.IPv6Only:
			out = append(out, Conflict{
				What: fmt.Sprintf("route %s%s overlaps the VPC's %s", r.dst, via(r.name), rangeOf(s, r.dst)),
				Remedy: fmt.Sprintf("remove it: %s %s%s, or use another namespace", ipCommand(r.dst, "route del"), r.dst,
					devOf(r.name)),
			})
		}
	}
	return out
}

// hostConflicts finds what stands in the way of the host's own link pair: anything of the mesh's prefix elsewhere.
func hostConflicts(s HostSpec, st spaceState, own int) []Conflict {
	var out []Conflict
	for _, a := range st.addresses {
		if a.ifindex != own && a.prefix.Overlaps(s.Mesh) {
			out = append(out, Conflict{
				What:   fmt.Sprintf("address %s on %s overlaps the mesh's %s", a.prefix, a.name, s.Mesh),
				Remedy: fmt.Sprintf("remove it: ip address del %s dev %s", a.prefix, a.name),
			})
		}
	}
	for _, r := range st.routes {
		if (r.ifindex != own || own == 0) && r.dst.Bits() > 0 && r.dst.Overlaps(s.Mesh) {
			out = append(out, Conflict{
				What:   fmt.Sprintf("route %s%s overlaps the mesh's %s", r.dst, via(r.name), s.Mesh),
				Remedy: fmt.Sprintf("remove it: ip -6 route del %s%s", r.dst, devOf(r.name)),
			})
		}
	}
	return out
}

func conflictError(subject string, c []Conflict) error {
	if len(c) == 0 {
		return nil
	}
	return &ConflictError{Subject: subject, Conflicts: c}
}

// overlapped is the range of the attachment that a prefix touches; invalid: none.
func overlapped(s WorkloadSpec, p netip.Prefix) netip.Prefix {
	for _, r := range s.ranges() {
		if p.Overlaps(r) {
			return r
		}
	}
	return netip.Prefix{}
}

func rangeOf(s WorkloadSpec, p netip.Prefix) string {
	if r := overlapped(s, p); r.IsValid() {
		return "range " + r.String()
	}
	return "resolver " + ResolverAddress.String()
}

func via(ifname string) string {
	if ifname == "" {
		return ""
	}
	return " via " + ifname
}

func devOf(ifname string) string {
	if ifname == "" {
		return ""
	}
	return " dev " + ifname
}

// freeName is the first of eni0, eni1, … that no link has.
func freeName(links []spaceLink) string {
	taken := make(map[string]bool, len(links))
	for _, l := range links {
		taken[l.name] = true
	}
	for i := 0; ; i++ {
		if name := fmt.Sprintf("eni%d", i); !taken[name] {
			return name
		}
	}
}
