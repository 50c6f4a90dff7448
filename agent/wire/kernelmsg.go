package wire

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of linux/wireguard.h.
const (
	familyName    = "wireguard"
	familyVersion = 1

	cmdGetDevice = 0
	cmdSetDevice = 1

	deviceName       = 2 // WGDEVICE_A_IFNAME
	devicePrivateKey = 3
	devicePublicKey  = 4
	deviceListenPort = 6
	deviceMark       = 7 // WGDEVICE_A_FWMARK
	devicePeers      = 8

	peerPublicKey     = 1 // WGPEER_A_PUBLIC_KEY
	peerPresharedKey  = 2
	peerFlags         = 3
	peerEndpoint      = 4
	peerKeepalive     = 5
	peerLastHandshake = 6
	peerRxBytes       = 7
	peerTxBytes       = 8
	peerAllowedIPs    = 9

	peerRemoveMe = 1 // WGPEER_F_REMOVE_ME

	allowedFamily = 1 // WGALLOWEDIP_A_FAMILY
	allowedAddr   = 2
	allowedBits   = 3
)

// Of linux/in.h, linux/in6.h and linux/time_types.h.
const (
	sizeSockaddr4 = 16
	sizeSockaddr6 = 28
	sizeTimespec  = 16
)

// maxBatch bounds the peers of one message in bytes: an attribute's length is 16 bits, all peers are one attribute.
const maxBatch = 48 << 10

// Upper bounds in bytes of what a peer without prefixes, and one prefix, take in a message.
const (
	sizeEdit   = 128
	sizePrefix = 48
)

// edit is one peer of a message.
type edit struct {
	key       PublicKey
	remove    bool
	underlay  netip.AddrPort // zero: as it is
	keepalive *time.Duration // nil: as it is
	unshare   bool           // take the preshared key away
	prefixes  []netip.Prefix // given to the peer, and taken from whoever has them
}

// editsOf lists what makes the change in the state, in order.
//
// The kernel takes a single prefix away from a peer only from Linux 6.16 on; before, it replaces all of a peer's
// prefixes, and drops packets until it has them again. So a prefix that nobody gets goes to a peer of a random key,
// which is removed right after, in the same message.
func editsOf(change Change, state State) ([]edit, error) {
	have := make(map[PublicKey]PeerStatus, len(state.Peers))
	for _, p := range state.Peers {
		have[p.PublicKey] = p
	}
	var edits []edit
	for _, key := range change.Remove {
		edits = append(edits, edit{key: key, remove: true})
		delete(have, key)
	}
	upserts := change.upserts()
	taken := make(map[netip.Prefix]bool)
	for _, p := range upserts {
		for _, prefix := range p.AllowedIPs {
			taken[prefix] = true
		}
	}
	var stale []netip.Prefix
	for _, p := range upserts {
		stale = append(stale, slices.DeleteFunc(without(have[p.PublicKey].AllowedIPs, p.AllowedIPs),
			func(prefix netip.Prefix) bool { return taken[prefix] })...)
	}
	for part := range slices.Chunk(stale, maxBatch/sizePrefix/2) {
		var nobody PublicKey
		if _, err := rand.Read(nobody[:]); err != nil {
			return nil, fmt.Errorf("random key: %w", err)
		}
		edits = append(edits, edit{key: nobody, prefixes: part}, edit{key: nobody, remove: true})
	}
	for _, p := range upserts {
		h := have[p.PublicKey]
		e := edit{key: p.PublicKey, prefixes: without(p.AllowedIPs, h.AllowedIPs), unshare: h.Preshared}
		if p.Underlay != h.Underlay {
			e.underlay = p.Underlay
		}
		if p.Keepalive != h.Keepalive {
			e.keepalive = &p.Keepalive
		}
		edits = append(edits, e)
	}
	return edits, nil
}

// applyMessages packs edits into messages, in order.
func applyMessages(name string, edits []edit) (messages [][]byte, err error) {
	var batch []edit
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		m, err := peersMessage(name, batch)
		messages, batch, size = append(messages, m), nil, 0
		return err
	}
	for _, e := range edits {
		rest := e.prefixes
		for first := true; first || len(rest) > 0; first = false {
			n := min(len(rest), (maxBatch-sizeEdit)/sizePrefix)
			part := edit{key: e.key, prefixes: rest[:n]}
			if first {
				part.remove, part.underlay, part.keepalive, part.unshare = e.remove, e.underlay, e.keepalive, e.unshare
			}
			rest = rest[n:]
			// What removes a peer stays in the message that made it.
			more := sizeEdit + n*sizePrefix
			if size+more > maxBatch && !e.remove {
				if err := flush(); err != nil {
					return nil, err
				}
			}
			batch, size = append(batch, part), size+more
		}
		if e.remove && size > maxBatch {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	return messages, flush()
}

func nameMessage(name string) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.String(deviceName, name)
	return ae.Encode()
}

func keyMessage(name string, key PrivateKey, port uint16, unmark bool) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.String(deviceName, name)
	ae.Bytes(devicePrivateKey, key[:]) // the key that is set already changes nothing
	if port != 0 {
		ae.Uint16(deviceListenPort, port)
	}
	if unmark {
		ae.Uint32(deviceMark, 0)
	}
	return ae.Encode()
}

func peersMessage(name string, edits []edit) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.String(deviceName, name)
	ae.Nested(devicePeers, func(list *netlink.AttributeEncoder) error {
		for _, e := range edits {
			list.Nested(0, e.encode)
		}
		return nil
	})
	return ae.Encode()
}

func (e edit) encode(ae *netlink.AttributeEncoder) error {
	ae.Bytes(peerPublicKey, e.key[:])
	if e.remove {
		ae.Uint32(peerFlags, peerRemoveMe)
		return nil
	}
	if e.unshare {
		ae.Bytes(peerPresharedKey, make([]byte, KeyLen)) // all zero stands for none
	}
	if e.underlay.IsValid() {
		ae.Bytes(peerEndpoint, sockaddr(e.underlay))
	}
	if e.keepalive != nil {
		ae.Uint16(peerKeepalive, uint16(*e.keepalive/time.Second))
	}
	if len(e.prefixes) == 0 {
		return nil
	}
	ae.Nested(peerAllowedIPs, func(list *netlink.AttributeEncoder) error {
		for _, prefix := range e.prefixes {
			list.Nested(0, func(ae *netlink.AttributeEncoder) error {
				family := uint16(unix.AF_INET6)
				if prefix.Addr().Is4() {
					family = unix.AF_INET
				}
				ae.Uint16(allowedFamily, family)
				ae.Bytes(allowedAddr, prefix.Addr().AsSlice())
				ae.Uint8(allowedBits, uint8(prefix.Bits()))
				return nil
			})
		}
		return nil
	})
	return nil
}

// sockaddr is struct sockaddr_in or sockaddr_in6: family in host byte order, port in network byte order.
func sockaddr(a netip.AddrPort) []byte {
	addr := a.Addr().Unmap()
	if addr.Is4() {
		b := make([]byte, sizeSockaddr4)
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		binary.BigEndian.PutUint16(b[2:], a.Port())
		copy(b[4:], addr.AsSlice())
		return b
	}
	b := make([]byte, sizeSockaddr6)
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	binary.BigEndian.PutUint16(b[2:], a.Port())
	copy(b[8:], addr.AsSlice())
	return b
}

func parseSockaddr(b []byte) (netip.AddrPort, error) {
	if len(b) < 2 {
		return netip.AddrPort{}, fmt.Errorf("address of %d bytes", len(b))
	}
	family := binary.NativeEndian.Uint16(b)
	switch {
	case family == unix.AF_INET && len(b) == sizeSockaddr4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:])), binary.BigEndian.Uint16(b[2:])), nil
	case family == unix.AF_INET6 && len(b) == sizeSockaddr6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:])), binary.BigEndian.Uint16(b[2:])), nil
	}
	return netip.AddrPort{}, fmt.Errorf("address of family %d and %d bytes", family, len(b))
}

// parseDump reads the messages of one listing. A peer whose prefixes do not fit goes on in the next message.
func parseDump(messages [][]byte) (State, error) {
	var s State
	for _, m := range messages {
		ad, err := netlink.NewAttributeDecoder(m)
		if err != nil {
			return State{}, err
		}
		for ad.Next() {
			switch ad.Type() {
			case devicePublicKey:
				ad.Do(func(b []byte) error { return copyKey(&s.PublicKey, b) })
			case deviceListenPort:
				s.ListenPort = ad.Uint16()
			case deviceMark:
				s.Mark = ad.Uint32()
			case devicePeers:
				ad.Nested(func(list *netlink.AttributeDecoder) error {
					for list.Next() {
						list.Nested(s.parsePeer)
					}
					return nil
				})
			}
		}
		if err := ad.Err(); err != nil {
			return State{}, fmt.Errorf("kernel's answer: %w", err)
		}
	}
	for i := range s.Peers {
		slices.SortFunc(s.Peers[i].AllowedIPs, netip.Prefix.Compare)
	}
	slices.SortFunc(s.Peers, func(a, b PeerStatus) int { return a.PublicKey.Compare(b.PublicKey) })
	return s, nil
}

func (s *State) parsePeer(ad *netlink.AttributeDecoder) error {
	var p PeerStatus
	for ad.Next() {
		switch ad.Type() {
		case peerPublicKey:
			ad.Do(func(b []byte) error { return copyKey(&p.PublicKey, b) })
		case peerPresharedKey:
			ad.Do(func(b []byte) error {
				var key PrivateKey
				if len(b) != KeyLen {
					return fmt.Errorf("preshared key of %d bytes", len(b))
				}
				copy(key[:], b)
				p.Preshared = !key.IsZero()
				return nil
			})
		case peerEndpoint:
			ad.Do(func(b []byte) (err error) {
				p.Underlay, err = parseSockaddr(b)
				return err
			})
		case peerKeepalive:
			p.Keepalive = time.Duration(ad.Uint16()) * time.Second
		case peerLastHandshake:
			ad.Do(func(b []byte) error {
				if len(b) != sizeTimespec {
					return fmt.Errorf("time of %d bytes", len(b))
				}
				sec, nsec := int64(binary.NativeEndian.Uint64(b)), int64(binary.NativeEndian.Uint64(b[8:]))
				if sec != 0 || nsec != 0 {
					p.LastHandshake = time.Unix(sec, nsec)
				}
				return nil
			})
		case peerRxBytes:
			p.RxBytes = ad.Uint64()
		case peerTxBytes:
			p.TxBytes = ad.Uint64()
		case peerAllowedIPs:
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(p.parsePrefix)
				}
				return nil
			})
		}
	}
	if last := len(s.Peers) - 1; last >= 0 && s.Peers[last].PublicKey == p.PublicKey {
		s.Peers[last].AllowedIPs = append(s.Peers[last].AllowedIPs, p.AllowedIPs...)
		return nil
	}
	s.Peers = append(s.Peers, p)
	return nil
}

func (p *PeerStatus) parsePrefix(ad *netlink.AttributeDecoder) error {
	var addr netip.Addr
	bits := -1
	for ad.Next() {
		switch ad.Type() {
		case allowedAddr:
			ad.Do(func(b []byte) error {
				var ok bool
				if addr, ok = netip.AddrFromSlice(b); !ok {
					return fmt.Errorf("address of %d bytes", len(b))
				}
				return nil
			})
		case allowedBits:
			bits = int(ad.Uint8())
		}
	}
	prefix := netip.PrefixFrom(addr, bits)
	if !prefix.IsValid() {
		return fmt.Errorf("allowed address %s with %d bits", addr, bits)
	}
	p.AllowedIPs = append(p.AllowedIPs, prefix)
	return nil
}

func copyKey(to *PublicKey, b []byte) error {
	if len(b) != KeyLen {
		return fmt.Errorf("key of %d bytes", len(b))
	}
	copy(to[:], b)
	return nil
}
