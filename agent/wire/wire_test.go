package wire_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/tuntest"
	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/agent/wire"
)

func TestContractMem(t *testing.T) {
	contract(t, func(*testing.T) wire.Device { return new(wire.Mem) })
}

// TestContractUAPI runs against wireguard-go's own side of the protocol, on a device without an interface.
func TestContractUAPI(t *testing.T) {
	contract(t, func(t *testing.T) wire.Device { return libraryDevice(t) })
}

func libraryDevice(t *testing.T) *wire.UAPI {
	t.Helper()
	silent := &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf}
	d := device.NewDevice(newDownTun(), conn.NewStdNetBind(), silent)
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); d.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go d.IpcHandle(c)
		}
	}()
	return wire.NewUAPI(path)
}

// downTun is an interface in memory whose link never comes up.
type downTun struct {
	tun.Device
	events chan tun.Event
}

func newDownTun() tun.Device {
	return &downTun{Device: tuntest.NewChannelTUN().TUN(), events: make(chan tun.Event)}
}

func (d *downTun) Events() <-chan tun.Event { return d.events }

func (d *downTun) Close() error {
	close(d.events)
	return d.Device.Close()
}

// TestMemIsLikeReal draws changes and demands that memory and wireguard-go hold the same after each.
func TestMemIsLikeReal(t *testing.T) {
	real, mem := libraryDevice(t), new(wire.Mem)
	keys := []wire.PublicKey{testKey(t), testKey(t), testKey(t), testKey(t)}
	all := prefixes("fd00::/16", "fd00::/92", "fd00::/96", "fd00::1/128", "fd00::2/128", "fd01::/64", "10.0.0.0/8")
	peer := rapid.Custom(func(t *rapid.T) wire.Peer {
		return wire.Peer{
			PublicKey:  rapid.SampledFrom(keys).Draw(t, "key"),
			Underlay:   rapid.SampledFrom([]netip.AddrPort{{}, netip.MustParseAddrPort("127.0.0.1:9")}).Draw(t, "underlay"),
			AllowedIPs: rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, 4, rapid.ID).Draw(t, "prefixes"),
			Keepalive:  time.Duration(rapid.IntRange(0, 2).Draw(t, "keepalive")) * time.Second,
		}
	})
	rapid.Check(t, func(rt *rapid.T) {
		change := wire.Change{
			Add:    rapid.SliceOfN(peer, 0, 2).Draw(rt, "add"),
			Update: rapid.SliceOfN(peer, 0, 2).Draw(rt, "update"),
			Remove: rapid.SliceOfN(rapid.SampledFrom(keys), 0, 2).Draw(rt, "remove"),
		}
		realErr, memErr := real.Apply(t.Context(), change), mem.Apply(t.Context(), change)
		if (realErr == nil) != (memErr == nil) {
			rt.Fatalf("real: %v, memory: %v", realErr, memErr)
		}
		if r, m := observe(t, real), observe(t, mem); !reflect.DeepEqual(r, m) {
			rt.Fatalf("real holds\n%+v\nmemory\n%+v", r, m)
		}
	})
}

func TestDiff(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	home, away := netip.MustParseAddrPort("192.0.2.1:51820"), netip.MustParseAddrPort("192.0.2.9:51820")
	base := wire.Peer{PublicKey: testKey(t), Underlay: home, AllowedIPs: prefixes("fd00::/92", "fd01::/92")}
	other := wire.Peer{PublicKey: testKey(t)}
	edit := func(f func(*wire.Peer)) wire.Peer { p := base; f(&p); return p }
	swapped := edit(func(p *wire.Peer) { p.AllowedIPs = prefixes("fd01::/92", "fd00::/92") })
	fewer := edit(func(p *wire.Peer) { p.AllowedIPs = prefixes("fd00::/92") })
	unknown := edit(func(p *wire.Peer) { p.Underlay = netip.AddrPort{} })
	alive := edit(func(p *wire.Peer) { p.Keepalive = 25 * time.Second })
	roamed := func(age time.Duration) wire.PeerStatus {
		return wire.PeerStatus{Peer: edit(func(p *wire.Peer) { p.Underlay = away }), LastHandshake: now.Add(-age)}
	}
	for name, c := range map[string]struct {
		want []wire.Peer
		have []wire.PeerStatus
		diff wire.Change
	}{
		"nothing":          {},
		"equal":            {[]wire.Peer{base}, []wire.PeerStatus{{Peer: swapped}}, wire.Change{}},
		"new":              {[]wire.Peer{base}, nil, wire.Change{Add: []wire.Peer{base}}},
		"gone":             {nil, []wire.PeerStatus{{Peer: base}}, wire.Change{Remove: []wire.PublicKey{base.PublicKey}}},
		"prefix lost":      {[]wire.Peer{fewer}, []wire.PeerStatus{{Peer: base}}, wire.Change{Update: []wire.Peer{fewer}}},
		"keepalive":        {[]wire.Peer{alive}, []wire.PeerStatus{{Peer: base}}, wire.Change{Update: []wire.Peer{alive}}},
		"underlay unknown": {[]wire.Peer{unknown}, []wire.PeerStatus{{Peer: base}}, wire.Change{}},
		"underlay learnt":  {[]wire.Peer{base}, []wire.PeerStatus{{Peer: unknown}}, wire.Change{Update: []wire.Peer{base}}},
		"roamed, live":     {[]wire.Peer{base}, []wire.PeerStatus{roamed(179 * time.Second)}, wire.Change{}},
		"preshared key": {
			[]wire.Peer{base}, []wire.PeerStatus{{Peer: base, Preshared: true}}, wire.Change{Update: []wire.Peer{base}},
		},
		"roamed, a moment ahead": {
			[]wire.Peer{base}, []wire.PeerStatus{roamed(-time.Second)}, wire.Change{},
		},
		"roamed, before the clock went back": {
			[]wire.Peer{base}, []wire.PeerStatus{roamed(-time.Hour)}, wire.Change{Update: []wire.Peer{base}},
		},
		"roamed, long dead": {
			[]wire.Peer{base}, []wire.PeerStatus{roamed(180 * time.Second)}, wire.Change{Update: []wire.Peer{base}},
		},
		"one each": {
			[]wire.Peer{other, fewer}, []wire.PeerStatus{{Peer: base}},
			wire.Change{Add: []wire.Peer{other}, Update: []wire.Peer{fewer}},
		},
	} {
		if got := wire.Diff(c.want, wire.State{Peers: c.have}, now); !reflect.DeepEqual(got, c.diff) {
			t.Errorf("%s: Diff gives %+v: want %+v", name, got, c.diff)
		}
	}
}

func TestUAPIWithoutTunnel(t *testing.T) {
	dir := t.TempDir()
	if _, err := wire.NewUAPI(filepath.Join(dir, "none")).Observe(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing socket: %v", err)
	}
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := wire.NewUAPI(stale).Observe(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("stale socket: %v", err)
	}
}

// TestUAPIBadAnswers has a peer process that answers what it should not.
func TestUAPIBadAnswers(t *testing.T) {
	for answer, wantText := range map[string]string{
		"":                                "without a status",
		"listen_port=1\n":                 "without a status",
		"errno=x\n\n":                     "want a number",
		"errno=-22\n\n":                   "invalid argument",
		"errno=22\n\n":                    "invalid argument",
		"nonsense\nerrno=0\n\n":           "want key=value",
		"listen_port=65536\nerrno=0\n\n":  "listen_port",
		"public_key=00\nerrno=0\n\n":      "public_key",
		"private_key=secret\nerrno=0\n\n": "private_key: want 32 bytes",
		"fwmark=-1\nerrno=0\n\n":          "fwmark",
		somePeer + "preshared_key=secret\nerrno=0\n\n":  "preshared_key: want 32 bytes",
		somePeer + "endpoint=x\nerrno=0\n\n":            "endpoint",
		somePeer + "allowed_ip=fd00::/129\nerrno=0\n\n": "allowed_ip",
	} {
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = c.Read(make([]byte, 64))
				_, _ = c.Write([]byte(answer))
				c.Close()
			}
		}()
		_, err = wire.NewUAPI(path).Observe(t.Context())
		if err == nil || !strings.Contains(err.Error(), wantText) {
			t.Errorf("answer %q: error %v: want one with %q", answer, err, wantText)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("error shows the private key's text: %v", err)
		}
		l.Close()
	}
}

var somePeer = fmt.Sprintf("public_key=%064d\n", 7)

func FuzzParseState(f *testing.F) {
	f.Add("private_key=" + strings.Repeat("ab", 32) + "\nlisten_port=51820\n" + somePeer +
		"endpoint=[::1]:9\nallowed_ip=fd00::/92\nlast_handshake_time_sec=1\nlast_handshake_time_nsec=5\n" +
		"rx_bytes=1\ntx_bytes=2\npersistent_keepalive_interval=25\nunknown=1\n")
	f.Add("endpoint=x\n")
	f.Fuzz(func(t *testing.T, text string) {
		state, err := wire.ParseState(text)
		if err != nil {
			return
		}
		if keys := strings.Count("\n"+text, "\npublic_key="); len(state.Peers) != keys {
			t.Errorf("%d peers of %d public_key lines", len(state.Peers), keys)
		}
	})
}
