package verify

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

// takeKey takes what the log gives to a node. A key may stand there again with the word of the node's certificate, which came later: what
// is not vouched for is judged when all leaves are known.
func (v *verifier) takeKey(index uint64, k *leaf.NodeKey, at time.Time) {
	n := v.node(k.Node)
	why := v.notVouched(k, at)
	if n.keys[k.ID] == nil {
		n.given = append(n.given, NodeKey{Node: k.Node, ID: k.ID, Leaf: index, At: at, Vouched: why == "", why: why})
		n.keys[k.ID] = k.Key
		return
	}
	for i := range n.given {
		if g := &n.given[i]; g.ID == k.ID && why == "" {
			g.Vouched, g.why = true, ""
		}
	}
}

// judgeKeys names keys that the log alone gives to nodes. The first key of a node may be the log's word alone where no CA is believed; another
// one, which whoever holds the log's key may have made, must be vouched for by a certificate of the node's.
func (v *verifier) judgeKeys() {
	if v.o.AuditOnly {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(v.nodes)) {
		given := v.nodes[id].given
		for i := range given {
			if g := &given[i]; !g.Vouched && (v.keys.CA != nil || i > 0) {
				v.keyBad(g, given[0].Leaf, i > 0)
			}
		}
	}
}

// notVouched tells why no certificate says that a key is the node's; "": one does.
func (v *verifier) notVouched(k *leaf.NodeKey, at time.Time) string {
	if v.keys.CA == nil {
		return "no CA is given to judge it by: add the mesh's ca.pem to the keys"
	}
	if k.Proof == nil {
		return "no certificate of the node vouches for it"
	}
	cert, err := k.Proof.Check(k.Node, k.Key)
	if err != nil {
		return err.Error()
	}
	if cert.NotBefore.After(at) { // the CA's clock may have been ahead of the log's
		at = cert.NotBefore
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: v.keys.CA, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return err.Error()
	}
	return ""
}

func (v *verifier) keyBad(g *NodeKey, first uint64, another bool) {
	if v.o.Node != "" && v.o.Node != g.Node {
		v.others++
		return
	}
	which := "the key"
	if another {
		which = fmt.Sprintf("another key than leaf %d does,", first)
	}
	v.leafBad(g.Leaf, g.At, "gives the node %s %s %s, and nothing but the log says so: %s", g.Node, which, g.ID, g.why)
}

// checkSeal tells whether a seal is signed by the key that it names, which the log gives to its node.
func (v *verifier) checkSeal(s *seal.Seal, key ed25519.PublicKey) error {
	if key == nil {
		return fmt.Errorf("its seal names the key %s, which is not the node's", s.Key)
	}
	if v.o.memo == nil {
		return s.Check(key)
	}
	body, err := s.Signed()
	if err != nil {
		return err
	}
	text := remember(v.o.memo, func() string {
		if err := s.Check(key); err != nil {
			return err.Error()
		}
		return ""
	}, []byte("seal"), key, body, []byte(base64.StdEncoding.EncodeToString(s.Signature)))
	if text != "" {
		return fmt.Errorf("%s", text)
	}
	return nil
}
