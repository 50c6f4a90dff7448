package tunnel_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/wire/internal/tunneltest"
)

// The benchmarks compare our tunnel with wireguard-go as its authors ship it. Both pairs stand at once and are measured
// in turns, so that what else the machine does strikes both; the ratio is the figure, not the numbers. Both processes
// of a pair, and the load, share the machine's CPUs.
//
//	go test ./agent/wire/tunnel -run '^$' -bench Tunnel -benchtime 5x

// turn is how long one system is measured at a time.
const turn = time.Second

// kinds are the systems compared; the first is what the others' ratio refers to.
var kinds = []struct {
	name      string
	configure func(*tunneltest.Node)
}{
	{"stock", func(n *tunneltest.Node) { n.Body = "stock" }},
	{"culvert", nil},
	{"partial", func(n *tunneltest.Node) { n.Config.PartialChecksums = true }},
}

func BenchmarkTunnelTCP1(b *testing.B)  { compare(b, "Gbit/s", tcpThroughput(1), false) }
func BenchmarkTunnelTCP16(b *testing.B) { compare(b, "Gbit/s", tcpThroughput(16), false) }
func BenchmarkTunnelUDP64(b *testing.B) { compare(b, "kpps", udpRate(64), false) }
func BenchmarkTunnelRR(b *testing.B)    { compare(b, "krr/s", requestRate, false) }

// BenchmarkTunnelTCP1Plain has an underlay that joins no datagrams, as many a network card.
func BenchmarkTunnelTCP1Plain(b *testing.B) { compare(b, "Gbit/s", tcpThroughput(1), true) }

// compare reports each system's median and its ratio to the first's.
func compare(b *testing.B, unit string, measure func(testing.TB, *tunneltest.Node, *tunneltest.Node) float64,
	plain bool,
) {
	type pair struct{ a, b *tunneltest.Node }
	pairs := make([]pair, len(kinds))
	results := make([][]float64, len(kinds))
	for i, k := range kinds {
		x, y := tunneltest.Pair(b, false, k.configure)
		tenants(b, x, y) // whose packets are counted
		if plain {
			for _, n := range []*tunneltest.Node{x, y} {
				if err := n.Do(func() error { return noJoining("eth0") }); err != nil {
					b.Fatal(err)
				}
			}
		}
		if echo := y.Echo(); !x.Reach(echo, 64, tunneltest.Patience) {
			b.Fatalf("%s: no traffic", k.name)
		}
		pairs[i] = pair{x, y}
		measure(b, x, y) // warm
	}
	b.ResetTimer()
	for b.Loop() {
		for i, p := range pairs {
			results[i] = append(results[i], measure(b, p.a, p.b))
		}
	}
	b.ReportMetric(0, "ns/op")
	for i, k := range kinds {
		b.ReportMetric(median(results[i]), k.name+"-"+unit)
		b.ReportMetric(float64(max(peakMemory(b, pairs[i].a), peakMemory(b, pairs[i].b))>>20), k.name+"-MiB")
		if i > 0 {
			b.ReportMetric(median(results[i])/median(results[0]), k.name+"/"+kinds[0].name)
		}
	}
}

func median(xs []float64) float64 {
	sorted := append([]float64(nil), xs...)
	for i := range sorted {
		for k := i; k > 0 && sorted[k] < sorted[k-1]; k-- {
			sorted[k], sorted[k-1] = sorted[k-1], sorted[k]
		}
	}
	return sorted[len(sorted)/2]
}

// tcpThroughput measures what arrives of streams from a to b, in Gbit/s.
func tcpThroughput(streams int) func(testing.TB, *tunneltest.Node, *tunneltest.Node) float64 {
	return func(t testing.TB, a, b *tunneltest.Node) float64 {
		l := listenTCP(t, b)
		defer l.Close()
		var got atomic.Int64
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer c.Close()
					for buf := make([]byte, 1<<18); ; {
						n, err := c.Read(buf)
						got.Add(int64(n))
						if err != nil {
							return
						}
					}
				})
			}
		})
		end := time.Now().Add(turn + turn/4)
		for range streams {
			c := dialTCP(t, a, l.Addr().String())
			_ = c.SetDeadline(end)
			wg.Go(func() {
				defer c.Close()
				for block := make([]byte, 1<<17); ; {
					if _, err := c.Write(block); err != nil {
						return
					}
				}
			})
		}
		await(turn / 4)
		from, start := got.Load(), time.Now()
		await(turn * 3 / 4)
		rate := float64(got.Load()-from) * 8 / time.Since(start).Seconds() / 1e9
		l.Close()
		wg.Wait()
		return rate
	}
}

// udpRate measures how many datagrams of the size arrive of a flood, in thousands a second.
func udpRate(size int) func(testing.TB, *tunneltest.Node, *tunneltest.Node) float64 {
	return func(t testing.TB, a, b *tunneltest.Node) float64 {
		receiver := b.UDP(netip.AddrPort{})
		sender := a.UDP(receiver.LocalAddr().(*net.UDPAddr).AddrPort())
		var got atomic.Int64
		var wg sync.WaitGroup
		wg.Go(func() {
			for buf := make([]byte, 2048); ; got.Add(1) {
				if _, err := receiver.Read(buf); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			for block := make([]byte, size); ; {
				if _, err := sender.Write(block); err != nil {
					return
				}
			}
		})
		await(turn / 4)
		from, start := got.Load(), time.Now()
		await(turn * 3 / 4)
		rate := float64(got.Load()-from) / time.Since(start).Seconds() / 1e3
		sender.Close()
		receiver.Close()
		wg.Wait()
		return rate
	}
}

// requestRate measures requests answered one after the other over one connection, in thousands a second.
func requestRate(t testing.TB, a, b *tunneltest.Node) float64 {
	l := listenTCP(t, b)
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	c := dialTCP(t, a, l.Addr().String())
	defer c.Close()
	buf, start, n := make([]byte, 64), time.Now(), 0
	for ; time.Since(start) < turn; n++ {
		if _, err := c.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
	}
	return float64(n) / time.Since(start).Seconds() / 1e3
}

func await(d time.Duration) { <-time.After(d) }

// Requests and names of linux/ethtool.h and net/ethtool/common.c.
const (
	ethtoolStrings     = 0x1b
	ethtoolSetFeatures = 0x3b
	ethtoolFeatureSet  = 4  // ETH_SS_FEATURES
	ethtoolNameLen     = 32 // ETH_GSTRING_LEN
	ethtoolMaxFeatures = 128
)

// noJoining makes an interface of this thread's namespace pass every datagram by itself.
func noJoining(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	names := make([]byte, 12+ethtoolMaxFeatures*ethtoolNameLen) // command, set, length, names
	binary.NativeEndian.PutUint32(names, ethtoolStrings)
	binary.NativeEndian.PutUint32(names[4:], ethtoolFeatureSet)
	if err := ethtool(fd, name, names); err != nil {
		return err
	}
	count := int(binary.NativeEndian.Uint32(names[8:]))
	set := make([]byte, 8+8*((count+31)/32)) // command, words, and per word which bits are meant and their values
	binary.NativeEndian.PutUint32(set, ethtoolSetFeatures)
	binary.NativeEndian.PutUint32(set[4:], uint32((count+31)/32))
	found := 0
	for i := range min(count, ethtoolMaxFeatures) {
		feature := unix.ByteSliceToString(names[12+i*ethtoolNameLen:][:ethtoolNameLen])
		if feature == "tx-udp-segmentation" || feature == "rx-gro" {
			set[8+8*(i/32)+i%32/8] |= 1 << (i % 8)
			found++
		}
	}
	if found != 2 {
		return fmt.Errorf("interface %s: found %d of 2 features", name, found)
	}
	return ethtool(fd, name, set)
}
