package tunnel

import (
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

func TestCollectorKeepsItsSlack(t *testing.T) {
	last := gcMost + 1
	for _, peers := range []int{0, 1, 10, 100, 300, 1000} {
		percent := gcPercent(peers)
		if percent > last || percent < gcLeast || percent > gcMost {
			t.Errorf("%d peers: %d %%, after %d %% with fewer", peers, percent, last)
		}
		if grows := (slack + peers*perPeer) * percent / 100; grows > slack || grows < slack*9/10 {
			t.Errorf("%d peers: the heap grows by %d bytes: want about %d", peers, grows, slack)
		}
		last = percent
	}
	if got := gcPercent(100_000); got != gcLeast {
		t.Errorf("100,000 peers: %d %%: want %d", got, gcLeast)
	}
}

// What the device may hold at once is below the limit, and so is the garbage that it makes meanwhile.
func TestLimitLeavesRoom(t *testing.T) {
	const readers, buffer = 3 * conn.IdealBatchSize, device.MaxMessageSize
	for _, peers := range []int{0, 1, 100, many - 1} {
		live := int64((readers+2*gateMax)*buffer + peers*perPeer)
		if got := memoryLimit(peers); got < live+live*int64(gcPercent(peers))/100 {
			t.Errorf("%d peers: %d bytes: they hold %d, of which %d %% more may wait to be collected", peers, got, live, gcPercent(peers))
		}
	}
	for peers, want := range map[int]int64{many: 48 << 20, 1000: 48 << 20, 10_000: 22<<20 + 10_000*25<<10} {
		if got := memoryLimit(peers); got != want {
			t.Errorf("%d peers: %d bytes: want %d, which keeps what is resident to its bound", peers, got, want)
		}
	}
}
