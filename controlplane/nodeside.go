package controlplane

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/ca"
)

// maxVersionLen bounds what a node says of its version, in bytes.
const maxVersionLen = 64

// maxRunLen bounds what a node names a run of its agent, in bytes.
const maxRunLen = 64

// fromNode is the input of a node's mutation; it neither tries things out nor repeats them under a key.
type fromNode[B any] struct {
	Body B
}

func (*fromNode[B]) options() *Mutation { return &Mutation{} }

func (s *Server) registerNodeSide() {
	writing(s, operation{http.MethodPost, "/v1/node/join", "join", "Become a node, with a join token", anyone}, join)
	writing(s, operation{http.MethodPost, "/v1/node/renew", "renew", "Get a new node certificate; tell new keys and addresses",
		aNodeRenewing}, renew)
	writing(s, operation{http.MethodPost, "/v1/node/rotate-key", "rotate-key", "Be known to peers by another WireGuard key", aNode}, rotateKey)
	writing(s, operation{http.MethodPost, "/v1/node/leave", "leave", "Be a node no more", aNodeRenewing}, leave)
	status := operation{http.MethodPost, "/v1/node/status", "report-status", "Tell what the node has applied", aNode}.huma(s)
	status.MaxBodyBytes = maxStatusBody
	huma.Register(s.huma, status, s.takeStatus)
	huma.Register(s.huma, stream(operation{http.MethodGet, "/v1/node/view", "stream-view", "The node's view, at once and after each change",
		aNode}.huma(s), "One signed view per line; empty lines are keep-alives"), s.streamViews)
}

// tokenOf finds the join token of a secret as printed, TOKENID.RANDOM.PIN; the pin is for the node.
func (c *call) tokenOf(secret string) (*api.JoinToken, error) {
	parts := strings.Split(secret, ".")
	if len(parts) == 2 || len(parts) == 3 {
		if t := c.r.JoinTokens[parts[0]]; t != nil && sameHash(parts[0]+"."+parts[1], t.Hash) {
			c.who = &caller{token: t, source: c.who.source}
			return t, nil
		}
	}
	return nil, api.Errorf(api.CodeTokenInvalid, "token", "ask an administrator for a new one, from `culvert token create`",
		"the join token is not valid")
}

// usable checks that a token is good for a node of this name, now.
func usable(c *call, t *api.JoinToken, name string) error {
	const again = "ask an administrator for a new one, from `culvert token create`"
	switch {
	case t.UsedBy != "":
		return api.Errorf(api.CodeTokenInvalid, "token", again, "the join token was used by the node %s", t.UsedBy)
	case !c.now.Before(t.ExpiresAt):
		return api.Errorf(api.CodeTokenInvalid, "token", again, "the join token expired at %s; by the server's clock it is %s",
			t.ExpiresAt.UTC().Format(time.DateTime), c.now.UTC().Format(time.DateTime))
	case t.NodeName != "" && t.NodeName != name:
		return api.Errorf(api.CodeTokenInvalid, "name", "use that name, or another token", "the join token is for a node named %q", t.NodeName)
	}
	return nil
}

func join(c *call, in *fromNode[api.JoinRequest]) (*api.JoinResponse, error) {
	r := &in.Body
	t, err := c.tokenOf(r.Token)
	if err != nil {
		return nil, err
	}
	c.subject = t.ID
	if n := c.joinedWith(t, r); n != nil {
		return c.describeNode(n, api.RenewRequest{CSR: r.CSR})
	}
	if err := usable(c, t, r.Name); err != nil {
		return nil, err
	}
	if err := limit(c.r.Nodes, api.MaxNodes, "nodes", func(*api.Node) bool { return true }); err != nil {
		return nil, err
	}
	n := &api.Node{Meta: c.meta(api.KindNode, "", r.Name, nil), State: api.NodeReady, GossipPort: api.DefaultGossipPort,
		PublicKey: r.PublicKey, Underlay: []string{}}
	if n.Number, err = c.tx.Number(api.KindNode); err != nil {
		return nil, err
	}
	addresses := r.Underlay
	if len(addresses) == 0 {
		source, err := netip.ParseAddr(c.who.source)
		if err != nil {
			return nil, api.Errorf(api.CodeUnderlayAddressMissing, "underlayAddresses", "give --underlay-address",
				"the request did not come over a network that would show the node's address")
		}
		addresses = []string{source.Unmap().WithZone("").String()}
	}
	if err := c.lookForNAT(n, r.LocalAddress, len(r.Underlay) > 0); err != nil {
		return nil, err
	}
	answer, err := c.describeNode(n, api.RenewRequest{CSR: r.CSR, PublicKey: r.PublicKey, Underlay: addresses,
		WireGuardPort: r.WireGuardPort, GossipPort: r.GossipPort, Version: r.Version})
	if err != nil {
		return nil, err
	}
	used := *t
	used.UsedBy, used.UsedKey = n.ID, requestKey(r.CSR)
	return answer, put(c, &used, nil, nil)
}

// joinedWith is the node that has used the token, where it is that node which asks again, as one does whose answer was lost: it
// shows the same key, which never leaves it, and the token is still good. Else nil.
func (c *call) joinedWith(t *api.JoinToken, r *api.JoinRequest) *api.Node {
	old := c.r.Nodes[t.UsedBy]
	if old == nil || old.State == api.NodeRevoked || !c.now.Before(t.ExpiresAt) || t.UsedKey == "" ||
		t.UsedKey != requestKey(r.CSR) || old.Name != r.Name || old.PublicKey != r.PublicKey {
		return nil
	}
	n := *old
	c.subject = n.ID
	return &n
}

// requestKey names the key of a certificate request; "" where that is not good, which is told elsewhere.
func requestKey(csr []byte) string {
	key, err := ca.ParseRequest(csr)
	if err != nil {
		return ""
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func renew(c *call, in *fromNode[api.RenewRequest]) (*api.JoinResponse, error) {
	old := c.r.Nodes[c.who.node.ID]
	if e := notAdmitted(old, c.who.node.ID); e != nil {
		return nil, e
	}
	n := *old
	c.subject = n.ID
	if err := c.lookForNAT(&n, in.Body.LocalAddress, len(in.Body.Underlay) > 0); err != nil {
		return nil, err
	}
	return c.describeNode(&n, in.Body)
}

// rotateKey makes peers know the node by another key; the one before is nobody's then. That the key is the node's already is
// fine: the answer before may have been lost.
func rotateKey(c *call, in *fromNode[api.RotateKeyRequest]) (*api.Result, error) {
	old := c.r.Nodes[c.who.node.ID]
	if e := notAdmitted(old, c.who.node.ID); e != nil {
		return nil, e
	}
	n := *old
	c.subject, n.PublicKey = n.ID, canonicalKey(in.Body.PublicKey)
	if n.PublicKey == old.PublicKey {
		return &api.Result{}, nil
	}
	if err := c.freshKey(&n); err != nil {
		return nil, err
	}
	return &api.Result{}, put(c, &n, nil, nil)
}

// leave takes the caller out of the mesh. Interfaces belong to accounts, so a node that still has some is not forgotten: it is
// refused, or with force revoked, which leaves them in their subnets without a node.
func leave(c *call, in *fromNode[api.LeaveRequest]) (*api.LeaveResponse, error) {
	old := c.r.Nodes[c.who.node.ID]
	if e := notAdmitted(old, c.who.node.ID); e != nil {
		return nil, e
	}
	c.subject = old.ID
	placed := c.placedOn(old.ID)
	if len(placed) > 0 && !in.Body.Force {
		return nil, placed.needing(api.KindNode, old.ID,
			"detach them with `culvert eni detach` while the agent runs and have their accounts delete them, or leave with --force: "+
				"the node is revoked then")
	}
	if err := c.rotateGossip(); err != nil {
		return nil, err
	}
	if len(placed) == 0 {
		c.forgetNode(old)
		return &api.LeaveResponse{Forgotten: true}, nil
	}
	n := *old
	var err error
	if n.State, err = n.State.Next(api.NodeEventRevoke); err != nil {
		return nil, err
	}
	return &api.LeaveResponse{}, put(c, &n, nil, nil)
}

// canonicalKey is a key as it is written: of the ways to write one in base64, one.
func canonicalKey(text string) string {
	if key, err := base64.StdEncoding.DecodeString(text); err == nil {
		return base64.StdEncoding.EncodeToString(key)
	}
	return text
}

// lookForNAT notes whether the node is reached where NAT sends its packets from: nobody gave an address for it, and the one
// that its requests come from is not its own.
func (c *call) lookForNAT(n *api.Node, local string, given bool) error {
	if local == "" || given {
		n.BehindNAT = n.BehindNAT && !given
		return nil
	}
	own, err := netip.ParseAddr(local)
	if err != nil {
		return api.Errorf(api.CodeInvalidParameter, "localAddress", "give the address that the node's packets to the server leave from",
			"%q is not an address", local)
	}
	source, err := netip.ParseAddr(c.who.source)
	n.BehindNAT = err == nil && source.Unmap().WithZone("") != own.Unmap().WithZone("")
	return nil
}

// notAdmitted says why a node with a good certificate is none; nil: it is one.
func notAdmitted(n *api.Node, id string) *api.Error {
	switch {
	case n == nil:
		return api.Errorf(api.CodeNodeForgotten, "", "join again with a new token", "the mesh has no node %s: it left, or was deleted", id)
	case n.State == api.NodeRevoked:
		return api.Errorf(api.CodeNodeRevoked, "", "join again with a new token", "the node %s is revoked", id)
	}
	return nil
}

// describeNode takes over what a node tells about itself, signs its certificate and writes it.
func (c *call) describeNode(n *api.Node, r api.RenewRequest) (*api.JoinResponse, error) {
	key, err := ca.ParseRequest(r.CSR)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidParameter, "csr", "send a PKCS #10 request in DER, signed with an ECDSA P-256 or Ed25519 key",
			"%v", err)
	}
	if len(r.Version) > maxVersionLen {
		return nil, api.Errorf(api.CodeInvalidParameter, "version", "shorten it", "it has %d bytes, at most %d are allowed",
			len(r.Version), maxVersionLen)
	}
	if strings.ContainsFunc(r.Version, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return nil, api.Errorf(api.CodeInvalidParameter, "version", "use printable characters", "%q is not a version", r.Version)
	}
	if len(r.Underlay) > 0 {
		n.Underlay = withPorts(r.Underlay, r.WireGuardPort)
	}
	if r.PublicKey != "" {
		n.PublicKey = r.PublicKey
	}
	n.PublicKey = canonicalKey(n.PublicKey)
	if r.GossipPort != 0 {
		n.GossipPort = r.GossipPort
	}
	if r.Version != "" {
		n.Version = r.Version
	}
	if err := c.freshKey(n); err != nil {
		return nil, err
	}
	if err := c.outsideOverlay(n.Underlay); err != nil {
		return nil, err
	}
	answer, err := c.certify(n, key)
	if err != nil {
		return nil, err
	}
	return answer, put(c, n, c.r.Nodes, func(o *api.Node) bool { return o.State != api.NodeRevoked })
}

// withPorts completes addresses that come without a port.
func withPorts(addresses []string, port uint16) []string {
	if port == 0 {
		port = api.DefaultWireGuardPort
	}
	out := make([]string, 0, len(addresses))
	for _, a := range addresses {
		if addr, err := netip.ParseAddr(a); err == nil {
			a = netip.AddrPortFrom(addr, port).String()
		}
		out = append(out, a)
	}
	return out
}

// freshKey: a WireGuard key names one node. A revoked node's stays refused.
func (c *call) freshKey(n *api.Node) error {
	for _, o := range c.r.Nodes {
		if o.ID != n.ID && o.PublicKey == n.PublicKey {
			return api.Errorf(api.CodeInvalidParameter, "publicKey", "make a new key: remove wireguard.key from the agent's data directory",
				"another node has this WireGuard key, or had it before it was revoked")
		}
	}
	return nil
}

// outsideOverlay: the tunnel cannot be reached through itself.
func (c *call) outsideOverlay(underlay []string) error {
	mesh := api.MeshPrefix(c.r.Mesh.Number)
	for _, u := range underlay {
		if a, err := netip.ParseAddrPort(u); err == nil && mesh.Contains(a.Addr()) {
			return api.Errorf(api.CodeInvalidParameter, "underlayAddresses",
				"give the host's own address that the other nodes reach, such as 192.0.2.7:51820", "%s is an address inside the tunnel", u)
		}
	}
	return nil
}

func (c *call) certify(n *api.Node, key crypto.PublicKey) (*api.JoinResponse, error) {
	cert, err := c.s.ca.SignNode(n.ID, key, c.s.certifying(c.now))
	if err != nil {
		return nil, err
	}
	// The one that asks, not the newest: of several answers that were lost, none was used.
	n.CertificateSerial, n.PreviousSerial = ca.Serial(cert), c.who.serial
	return &api.JoinResponse{Node: n.ID, Number: n.Number, Mesh: c.r.Mesh, Certificate: cert.Raw, CA: c.s.ca.PEM(),
		ViewKey: c.s.viewKey.Public().(ed25519.PublicKey), NotAfter: cert.NotAfter}, nil
}

type statusAnswer struct{ Body *api.Result }

// takeStatus keeps what a node reports. It is no transaction and leaves no audit event: it comes often and grants nothing.
func (s *Server) takeStatus(ctx context.Context, in *struct{ Body api.NodeStatus }) (*statusAnswer, error) {
	c := s.newCall(ctx, s.store.Snapshot())
	st := in.Body
	if st.Node != c.who.node.ID {
		return nil, api.Errorf(api.CodeUnauthorized, "nodeId", "report for the node that the certificate names",
			"the caller is the node %s", c.who.node.ID)
	}
	if len(st.Run) > maxRunLen || strings.ContainsFunc(st.Run, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return nil, api.Errorf(api.CodeInvalidParameter, "agentRun", "give a word that names this run of the agent",
			"%q is longer than %d bytes, or cannot be printed", api.Shortened(st.Run), maxRunLen)
	}
	tooLong := func(e string) bool { return len(e) > api.MaxStatusErrorLen }
	if len(st.Errors) > api.MaxStatusErrors || slices.ContainsFunc(st.Errors, tooLong) {
		return nil, api.Errorf(api.CodeInvalidParameter, "errors", "report the most important ones, shortened",
			"at most %d errors of %d bytes are kept", api.MaxStatusErrors, api.MaxStatusErrorLen)
	}
	for _, id := range st.Attached {
		if !api.IsID(api.KindENI.Prefix(), id) {
			return nil, api.Errorf(api.CodeInvalidParameter, "attachedEniIds", "give ids of network interfaces", "%q is none", id)
		}
	}
	malformed, refused := checkTargetHealth(&st)
	if refused != nil {
		return nil, refused
	}
	if malformed != nil {
		s.oddHealth.add(st.Node, malformed.Message)
	}
	s.takeTargetHealth(ctx, c.r, &st)
	st.SeenAt = c.now
	s.hub.report(st)
	return &statusAnswer{&api.Result{Revision: c.r.Revision}}, nil
}
