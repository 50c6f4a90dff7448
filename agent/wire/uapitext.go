package wire

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hexKey gives the protocol's form of a key.
func hexKey[K ~[KeyLen]byte](k K) string { return hex.EncodeToString(k[:]) }

func parseHexKey(text string) ([KeyLen]byte, error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != KeyLen {
		return [KeyLen]byte{}, fmt.Errorf("want %d bytes in hexadecimal", KeyLen)
	}
	return [KeyLen]byte(raw), nil
}

// ParseState reads the lines with which a device answers "get=1", without the status. Lines with keys unknown here are
// passed over. The private key among them is reduced to its public key.
func ParseState(text string) (State, error) {
	var s stateParser
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return State{}, fmt.Errorf("line of %d bytes: want key=value", len(line))
		}
		if err := s.line(key, value); err != nil {
			return State{}, fmt.Errorf("%s: %w", key, err) // without the value: it may be a private key
		}
	}
	for i := range s.state.Peers {
		slices.SortFunc(s.state.Peers[i].AllowedIPs, netip.Prefix.Compare)
	}
	slices.SortFunc(s.state.Peers, func(a, b PeerStatus) int { return a.PublicKey.Compare(b.PublicKey) })
	return s.state, nil
}

type stateParser struct {
	state State
	sec   int64 // seconds of the current peer's last handshake, until its nanoseconds come
}

func (s *stateParser) line(key, value string) error {
	switch key {
	case "private_key":
		k, err := parseHexKey(value)
		s.state.PublicKey = PrivateKey(k).Public()
		return err
	case "listen_port":
		port, err := strconv.ParseUint(value, 10, 16)
		s.state.ListenPort = uint16(port)
		return err
	case "fwmark":
		mark, err := strconv.ParseUint(value, 10, 32)
		s.state.Mark = uint32(mark)
		return err
	case "public_key":
		k, err := parseHexKey(value)
		s.state.Peers = append(s.state.Peers, PeerStatus{Peer: Peer{PublicKey: k}})
		s.sec = 0
		return err
	}
	if len(s.state.Peers) == 0 {
		return nil
	}
	return s.peerLine(&s.state.Peers[len(s.state.Peers)-1], key, value)
}

func (s *stateParser) peerLine(p *PeerStatus, key, value string) (err error) {
	switch key {
	case "preshared_key":
		var k [KeyLen]byte
		k, err = parseHexKey(value)
		p.Preshared = !PrivateKey(k).IsZero()
	case "endpoint":
		p.Underlay, err = netip.ParseAddrPort(value)
	case "allowed_ip":
		var prefix netip.Prefix
		prefix, err = netip.ParsePrefix(value)
		p.AllowedIPs = append(p.AllowedIPs, prefix)
	case "persistent_keepalive_interval":
		var seconds uint64
		seconds, err = strconv.ParseUint(value, 10, 16)
		p.Keepalive = time.Duration(seconds) * time.Second
	case "last_handshake_time_sec":
		s.sec, err = strconv.ParseInt(value, 10, 64)
	case "last_handshake_time_nsec":
		var nsec int64
		nsec, err = strconv.ParseInt(value, 10, 64)
		if s.sec != 0 || nsec != 0 {
			p.LastHandshake = time.Unix(s.sec, nsec)
		}
	case "rx_bytes":
		p.RxBytes, err = strconv.ParseUint(value, 10, 64)
	case "tx_bytes":
		p.TxBytes, err = strconv.ParseUint(value, 10, 64)
	}
	return err
}
