package e2e

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// A service that tells its targets of clients, from the command to the bytes that a target reads first: across nodes, and on the
// provider's own. Set back, targets are told nothing any more.
func TestTargetsAreToldOfTheirClients(t *testing.T) {
	w := mesh(t)
	pay := w.as("pay")
	for _, target := range []string{"ledger-1", "ledger-2"} {
		w.start(t, target, "socat", "TCP4-LISTEN:443,fork,reuseaddr", "SYSTEM:head -c 54 | od -An -v -tx1")
	}
	identity := func(i api.ClientIdentity) {
		ctx, cancel := context.WithTimeout(context.Background(), slack*30*time.Second*slowness())
		defer cancel()
		if _, err := pay.ModifyService(ctx, "ledger", api.ModifyServiceRequest{ClientIdentity: &i}); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { identity(api.IdentityLoadBalancer) })
	identity(api.IdentityProxyProtocol)
	ep, err := w.as("shop").GetEndpoint(t.Context(), "ledger")
	if err != nil {
		t.Fatal(err)
	}
	dialed := w.endpointAddress(t, "ledger")
	first := func(consumer string) (string, error) { // what a target reads first, in hexadecimal
		out, err := w.run(t, consumer, "sh", "-c", "printf %60s x | socat -t "+seconds(5)+" - TCP4:ledger.pay.internal:443,connect-timeout="+seconds(2))
		return strings.Join(strings.Fields(out), ""), err
	}
	for consumer, address := range map[string]string{"cart": "10.0.1.5", "till": "10.0.1.77"} {
		want := hex.EncodeToString([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x26")) +
			hex.EncodeToString(netip.MustParseAddr(address).AsSlice()) + hex.EncodeToString(netip.MustParseAddr(dialed).AsSlice())
		eventually(t, 20*time.Second, "the header for "+consumer, func() error {
			out, err := first(consumer)
			id := "01bbea001701" + hex.EncodeToString([]byte(ep.ID)) // behind port 443
			if err == nil && (!strings.HasPrefix(out, want) || !strings.HasSuffix(out, id)) {
				err = fmt.Errorf("%q is not %s…%s", out, want, ep.ID)
			}
			return err
		})
	}
	identity(api.IdentityLoadBalancer)
	eventually(t, 20*time.Second, "no header", func() error {
		out, err := first("cart")
		if err == nil && !strings.HasPrefix(out, "2020") {
			err = fmt.Errorf("%q does not begin with what was sent", out)
		}
		return err
	})
}
