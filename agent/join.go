package agent

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/version"
)

// Default ports of a node, both UDP, gossip also TCP.
const (
	DefaultWireGuardPort = 51820
	DefaultGossipPort    = 7946
)

// JoinConfig is what `culvert agent join` needs.
type JoinConfig struct {
	DataDir  string
	Servers  []string // addresses of the control plane; the first that answers is asked, all are kept
	Token    string   // as printed by `culvert token create`; holds the pin of the server's CA
	CA       []byte   // PEM; may be empty when the token has a pin
	Name     string   // of the node
	Underlay []string // ADDRESS or ADDRESS:PORT; none: where the server sees the connection come from
	// Ports other than the defaults.
	WireGuardPort, GossipPort uint16
}

// Join makes this machine a node. It refuses when it is one already; a used token is refused by the control plane, unless it
// was this machine that used it and the answer was lost.
func Join(ctx context.Context, cfg JoinConfig) (*state.Identity, error) {
	dir := state.Dir(cfg.DataDir)
	if err := dir.Make(); err != nil {
		return nil, err
	}
	unlock, err := dir.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := dir.Mend(); err != nil {
		return nil, err
	}
	if joined, err := dir.HasIdentity(); err != nil {
		return nil, err
	} else if joined && dir.LoadJoining() != nil { // all but told
		id, err := dir.LoadIdentity()
		return id, errors.Join(err, dir.ForgetJoining())
	} else if joined {
		return nil, fmt.Errorf("%s: this machine is a node already: run culvert agent leave first, or choose another --data-dir",
			cfg.DataDir)
	}
	_, keyless := os.Lstat(dir.WireKey())
	key, err := wire.LoadOrCreateKey(dir.WireKey())
	if err != nil {
		return nil, err
	}
	failpoint.Here("join.keyed")
	before := dir.LoadJoining()
	asked, err := joining(dir, before, cfg.Name)
	if err != nil {
		return nil, err
	}
	failpoint.Here("join.noted")
	answer, maybe, err := askToJoin(ctx, cfg, api.JoinRequest{
		Token: cfg.Token, Name: cfg.Name, CSR: asked.CSR, PublicKey: key.Public().String(), Underlay: cfg.Underlay,
		WireGuardPort: cmp.Or(cfg.WireGuardPort, DefaultWireGuardPort), GossipPort: cmp.Or(cfg.GossipPort, DefaultGossipPort),
		Version: version.Version(),
	})
	if err != nil && !maybe && before == nil {
		err = errors.Join(err, dir.ForgetJoining())
		if errors.Is(keyless, fs.ErrNotExist) {
			err = errors.Join(err, dir.DropWireKey())
		}
	}
	if err != nil {
		return nil, err
	}
	failpoint.Here("join.answered")
	id := &state.Identity{Name: cfg.Name, Servers: cfg.Servers, Underlay: cfg.Underlay,
		WireGuardPort: cfg.WireGuardPort, GossipPort: cfg.GossipPort}
	id.Take(answer, asked.KeyPEM)
	if _, err := id.Certificate(); err != nil {
		return nil, err
	}
	if err := dir.SaveIdentity(id); err != nil {
		return nil, err
	}
	failpoint.Here("join.saved")
	return id, dir.ForgetJoining()
}

// refusedForGood reports whether the control plane has answered that it did nothing.
func refusedForGood(err error) bool {
	var refused *api.Error
	return errors.As(err, &refused) && refused.Code != api.CodeUnavailable && refused.Code != api.CodeInternal
}

// joining is what was asked when a join was interrupted, or a new request, which is kept.
func joining(dir state.Dir, before *state.Joining, name string) (*state.Joining, error) {
	if before != nil {
		return before, nil
	}
	keyPEM, csr, err := newCSR(name)
	if err != nil {
		return nil, err
	}
	j := &state.Joining{KeyPEM: keyPEM, CSR: csr}
	return j, dir.SaveJoining(j)
}

// askToJoin asks one server after another until one answers. maybe tells that it may have come to pass in spite of the error.
func askToJoin(ctx context.Context, cfg JoinConfig, r api.JoinRequest) (answer *api.JoinResponse, maybe bool, err error) {
	err = errors.New("join: no server is named")
	for _, server := range cfg.Servers {
		var c *client.Client
		if c, err = client.New(client.Config{Address: server, CA: cfg.CA, CAPin: client.TokenPin(cfg.Token)}); err != nil {
			return nil, maybe, err
		}
		r.LocalAddress = localAddress(ctx, server)
		answer, err = c.Join(ctx, r)
		c.Close()
		maybe = maybe || !refusedForGood(err)
		if err == nil || answered(err) || ctx.Err() != nil {
			return answer, maybe, err
		}
	}
	return nil, maybe, err
}

// newCSR makes an ECDSA P-256 key (PEM, PKCS #8) and a request for its certification (DER). The names in the
// certificate are the control plane's to choose; the common name only helps a reader of logs.
func newCSR(name string) (keyPEM string, csr []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", nil, err
	}
	der, err1 := x509.MarshalPKCS8PrivateKey(key)
	template := x509.CertificateRequest{}
	template.Subject.CommonName = name
	csr, err2 := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err := errors.Join(err1, err2); err != nil {
		return "", nil, fmt.Errorf("certificate request: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), csr, nil
}

// remote is one server of the control plane over HTTP.
type remote struct{ *client.Client }

// dialControlPlane makes the client of one of the servers. It does not connect.
func dialControlPlane(id *state.Identity, server string, certificate func() (*tls.Certificate, error)) (remote, error) {
	c, err := client.New(client.Config{Address: server, CA: []byte(id.CAPEM), Certificate: certificate,
		UserAgent: "culvert-agent/" + version.Version()})
	return remote{c}, err
}

// Views implements ControlPlane.
func (r remote) Views(ctx context.Context, fn func(api.SignedView) error) error {
	return r.StreamViews(ctx, fn)
}

// Report implements ControlPlane.
func (r remote) Report(ctx context.Context, s api.NodeStatus) error { return r.ReportStatus(ctx, s) }

// SendFlows implements ControlPlane. Records of accounts that this node has nothing to do with any more are refused by the
// control plane for good; sending them again would not help.
func (r remote) SendFlows(ctx context.Context, records []api.FlowEnvelope) error {
	_, err := r.Client.SendFlows(ctx, records)
	return err
}

// localAddress is what packets to a server leave from, as the routes are now; "" where they do not say or there is no
// network between. Nothing is sent: a UDP socket only looks its route up.
func localAddress(ctx context.Context, server string) string {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" {
		return ""
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", u.Host)
	if err != nil {
		return ""
	}
	defer c.Close()
	a, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return ""
	}
	return a.Addr().Unmap().WithZone("").String()
}

func first(list []string) string {
	for _, s := range list {
		return s
	}
	return ""
}
