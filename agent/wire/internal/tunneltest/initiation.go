package tunneltest

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tai64n"

	"github.com/culvert-net/culvert/agent/wire"
)

// taiBase is the TAI64 label of 1970, as wireguard-go has it: 2^62 and the 10 s by which TAI was ahead then.
const taiBase = 0x400000000000000a

// InitiateAt sends a peer the initiation that the node would have sent at another time of its clock. The answer is not looked at.
func (n *Node) InitiateAt(peer *Node, underlay netip.Addr, at time.Time) {
	n.t.Helper()
	message := initiation(n, peer.Key.Public(), at)
	if err := n.Do(func() error {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(underlay, Port)))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(message)
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
}

// initiation is the first message of Noise_IKpsk2 (the WireGuard paper, section 5.4.2), with a timestamp of choice.
func initiation(n *Node, peer wire.PublicKey, at time.Time) []byte {
	n.t.Helper()
	curve := ecdh.X25519()
	ephemeral, err1 := curve.GenerateKey(rand.Reader)
	static, err2 := curve.NewPrivateKey(n.Key[:])
	remote, err3 := curve.NewPublicKey(peer[:])
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			n.t.Fatal(err)
		}
	}
	chain, hash := [32]byte(device.InitialChainKey), [32]byte(device.InitialHash)
	mix := func(data []byte) { hash = blake2s.Sum256(append(hash[:], data...)) }
	seal := func(with *ecdh.PrivateKey, plain []byte) []byte {
		secret, err := with.ECDH(remote)
		if err != nil {
			n.t.Fatal(err)
		}
		var key [chacha20poly1305.KeySize]byte
		device.KDF2(&chain, &key, chain[:], secret)
		aead, err := chacha20poly1305.New(key[:])
		if err != nil {
			n.t.Fatal(err)
		}
		sealed := aead.Seal(nil, make([]byte, chacha20poly1305.NonceSize), plain, hash[:])
		mix(sealed)
		return sealed
	}
	mix(peer[:])
	device.KDF1(&chain, chain[:], ephemeral.PublicKey().Bytes())
	mix(ephemeral.PublicKey().Bytes())
	var stamp [tai64n.TimestampSize]byte
	binary.BigEndian.PutUint64(stamp[:], taiBase+uint64(at.Unix()))

	var b bytes.Buffer
	b.Write([]byte{device.MessageInitiationType, 0, 0, 0, 1, 2, 3, 4}) // and the sender's index
	b.Write(ephemeral.PublicKey().Bytes())
	b.Write(seal(ephemeral, static.PublicKey().Bytes()))
	b.Write(seal(static, stamp[:]))
	b.Write(make([]byte, 2*blake2s.Size128))
	var macs device.CookieGenerator
	macs.Init(device.NoisePublicKey(peer))
	macs.AddMacs(b.Bytes())
	return b.Bytes()
}
