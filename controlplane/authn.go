package controlplane

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/ca"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/logkey"
)

// policy says who may call an operation at all; what they may see of it is the operation's business.
type policy int

const (
	anyone policy = iota
	aUser         // any API key
	anAdmin
	aNode
	aNodeRenewing // a node whose certificate may have expired
)

// caller is who calls.
type caller struct {
	key     *api.APIKey    // a user
	node    *api.Node      // a node
	token   *api.JoinToken // who becomes a node
	account string         // of the key; "" for administrators and nodes
	wanted  string         // the account that an administrator asked to act for: id or name, as sent
	source  string         // address of the other side, "unix" for a Unix socket
	serial  string         // of the node's certificate

	revoked string     // node that it was, by a certificate that is good
	suspect bool       // with a node: it showed a certificate that was replaced, so this may be somebody else
	asked   string     // what the path names, as sent: an id, a name or nothing
	refusal *api.Error // what the caller was answered
	audited bool       // somebody took care of it
}

func (c *caller) admin() bool { return c.key != nil && c.key.Admin }

// id is how audit events name the caller.
func (c *caller) id() string {
	switch {
	case c.key != nil:
		return c.key.ID
	case c.node != nil:
		return c.node.ID
	case c.token != nil:
		return c.token.ID
	}
	return anonymous
}

// anonymous is who has not shown who it is.
const anonymous = "anonymous"

// callerOf is the caller of a request.
func callerOf(ctx context.Context) *caller {
	if who, ok := ctx.Value(callerKey).(*caller); ok {
		return who
	}
	return &caller{}
}

// newKey makes an API key and its secret, KEYID.RANDOM.
func newKey(now time.Time) (*api.APIKey, string) {
	k := &api.APIKey{Meta: api.Meta{ID: newID(api.KindAPIKey.Prefix()), CreatedAt: now}}
	secret := newSecret(k.ID)
	k.Hash = hashSecret(secret)
	return k, secret
}

// newSecret is an id, a dot and 256 random bits.
func newSecret(id string) string {
	return id + "." + base64.RawURLEncoding.EncodeToString(randomBytes(32))
}

// hashSecret: the secrets are random, so a plain hash is enough.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func sameHash(secret, hash string) bool {
	return subtle.ConstantTimeCompare([]byte(hashSecret(secret)), []byte(hash)) == 1
}

var errNoKey = api.Errorf(api.CodeAuthFailure, "", "send the header Authorization: Bearer KEY, with a key from `culvert key create`",
	"an API key is needed")

var errBadKey = api.Errorf(api.CodeAuthFailure, "", "check the key, or ask an administrator for a new one",
	"the API key is not valid")

// user finds the key of a request.
func (s *Server) user(r *http.Request) (*api.APIKey, *api.Error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return nil, errNoKey
	}
	secret, ok := strings.CutPrefix(header, "Bearer ")
	id, _, dotted := strings.Cut(secret, ".")
	if !ok || !dotted {
		return nil, errBadKey
	}
	snap := s.store.Snapshot()
	key := snap.APIKeys[id]
	if key == nil {
		sameHash(secret, "") // as long as for a key that exists
		return nil, errBadKey
	}
	if !sameHash(secret, key.Hash) || !key.Admin && snap.Accounts[key.Account] == nil {
		return nil, errBadKey
	}
	s.hub.keyUsed(key.ID, s.cfg.Now())
	return key, nil
}

// identify finds the node of a request by its certificate, which must be the node's newest, or the one before as long as the
// newest was never used: the answer that brought it may have been lost.
func (s *Server) identify(c *caller, r *http.Request, grace time.Duration) *api.Error {
	const again = "renew it, or join again with a new token"
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return api.Errorf(api.CodeCertificateInvalid, "", "join with a token first", "a node certificate is needed")
	}
	cert := r.TLS.PeerCertificates[0]
	id, err := s.ca.Node(cert, s.cfg.Now(), grace)
	if err != nil {
		s.log.Debug("node certificate refused", logkey.Error, err)
		return api.Errorf(api.CodeCertificateInvalid, "", again, "the node certificate is not valid")
	}
	n := s.store.Snapshot().Nodes[id]
	if e := notAdmitted(n, id); e != nil {
		c.revoked = id
		return e
	}
	c.node, c.serial = n, ca.Serial(cert)
	if !goodSerial(n, c.serial) {
		c.suspect = true
		s.replaced.add(n.ID, "serial "+c.serial+" from "+c.source)
		return api.Errorf(api.CodeCertificateInvalid, "", again, "the node certificate was replaced by a newer one")
	}
	if c.serial == n.CertificateSerial && n.PreviousSerial != "" {
		s.retirePrevious(r.Context(), n)
	}
	return nil
}

// goodSerial reports whether a node may show the certificate with a serial number.
func goodSerial(n *api.Node, serial string) bool {
	return serial != "" && (serial == n.CertificateSerial || serial == n.PreviousSerial)
}

// retirePrevious: the node has its newest certificate, which it has just shown, so the one before is good no more. Where that
// cannot be written, the next call tries again.
func (s *Server) retirePrevious(ctx context.Context, seen *api.Node) {
	_, err := s.store.Txn(ctx, func(tx *store.Tx) error {
		c := s.newCall(ctx, tx.Resources())
		c.tx = tx
		old := c.r.Nodes[seen.ID]
		if old == nil || old.CertificateSerial != seen.CertificateSerial || old.PreviousSerial == "" {
			return nil
		}
		n := *old
		n.PreviousSerial = ""
		tx.Put(&n)
		c.bySystem("retire-certificate", "", n.ID)
		return nil
	})
	if err != nil {
		s.log.Warn("a node's previous certificate is still good", logkey.Node, seen.ID, logkey.Error, err)
	}
}

func (s *Server) authenticate(r *http.Request, p policy) (*caller, *api.Error) {
	c := &caller{source: sourceOf(r)}
	var e *api.Error
	switch p {
	case anyone:
		return c, nil
	case aNode:
		return c, s.identify(c, r, 0)
	case aNodeRenewing:
		return c, s.identify(c, r, ca.RenewalGrace)
	}
	if c.key, e = s.user(r); e != nil {
		return nil, e
	}
	c.account, c.wanted = c.key.Account, r.Header.Get(client.HeaderAccount)
	if p == anAdmin && !c.key.Admin {
		return c, api.Errorf(api.CodeUnauthorized, "", "ask an administrator", "only an administrator may do this")
	}
	return c, nil
}

// sourceOf is the address that a request came from.
func sourceOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || host == "" {
		return "unix"
	}
	return host
}

// require lets a request pass only from whom the policy names. It sees to it that every refusal that has to leaves an audit event,
// also when the operation itself was never reached.
func (s *Server) require(o operation, mutates bool) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		line := accessOf(r.Context())
		who, e := s.authenticate(r, o.policy)
		line.operation, line.who = o.id, who
		if who == nil {
			line.who = &caller{source: sourceOf(r), refusal: e}
		} else {
			line.account = who.account
			if tooOften := s.mayAsk(w, who, mutates); tooOften != nil {
				e = tooOften
			}
		}
		line.who.asked = r.PathValue("id")
		if e != nil {
			line.who.refusal = e
			writeError(w, r, e)
		} else {
			ctx = huma.WithValue(ctx, callerKey, who)
			next(ctx)
			e = who.refusal
		}
		if who == nil {
			who = line.who
		}
		if !who.mustAudit(e, mutates) {
			return
		}
		c := s.newCall(context.WithValue(ctx.Context(), callerKey, who), s.store.Snapshot())
		c.subject = who.revoked
		if who.suspect {
			c.subject = who.node.ID
		}
		_ = c.chooseAccount() // where that fails, the event is the caller's own account's
		s.auditRefusal(ctx.Context(), c, o.id, e)
	}
}
