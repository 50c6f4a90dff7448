package wire

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// PathMeter is a Device that measures the way to each peer.
type PathMeter interface {
	// PathMTUs returns what is known. self is this tunnel's own address inside, the lowest of those that its peers allow
	// it: nothing is measured before the device was told, and only peers that were told theirs answer. It returns at once
	// unless since is the version that is still current: then it waits some seconds for another one.
	PathMTUs(ctx context.Context, self netip.Addr, since uint64) (PathMTUs, error)
}

// NoVersion is none that a device has.
const NoVersion = 0

// PathMTUs are measured at the device's peers.
type PathMTUs struct {
	Version uint64 // another when MTU may be another; of one process only

	// MTU is the largest packet inside the tunnel that reaches the peer, in bytes, at least 1200. A peer that is absent was
	// not measured yet: it did not answer.
	MTU map[PublicKey]int
}

var _ PathMeter = (*UAPI)(nil)

// PathMTUs implements [PathMeter], by a command that only Culvert's own tunnel process knows.
func (u *UAPI) PathMTUs(ctx context.Context, self netip.Addr, since uint64) (PathMTUs, error) {
	reply, err := u.exchange(ctx, fmt.Sprintf("paths=1\nself=%s\nsince=%d\n\n", self, since))
	if err != nil {
		return PathMTUs{}, fmt.Errorf("read path MTUs: %w", err)
	}
	paths, err := parsePathMTUs(reply)
	if err != nil {
		return PathMTUs{}, fmt.Errorf("read path MTUs: %w", err)
	}
	return paths, nil
}

// parsePathMTUs reads the lines of the answer. Lines with keys unknown here are passed over.
func parsePathMTUs(text string) (PathMTUs, error) {
	p := PathMTUs{MTU: map[PublicKey]int{}}
	var of PublicKey
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		var err error
		switch key {
		case "version":
			p.Version, err = strconv.ParseUint(value, 10, 64)
		case "public_key":
			var k [KeyLen]byte
			k, err = parseHexKey(value)
			of = k
		case "mtu":
			var mtu uint64
			if mtu, err = strconv.ParseUint(value, 10, 16); err == nil && (mtu == 0 || of.IsZero()) {
				err = fmt.Errorf("%q of peer %s", value, of)
			}
			p.MTU[of] = int(mtu)
		}
		if err != nil {
			return PathMTUs{}, fmt.Errorf("%s: %w", key, err)
		}
	}
	return p, nil
}
