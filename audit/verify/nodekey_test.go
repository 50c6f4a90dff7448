package verify

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

// authority is a CA, as a mesh has one.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func newAuthority(t *testing.T, n byte, from time.Time) *authority {
	t.Helper()
	a := &authority{t: t, key: keyOf(n)}
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(int64(n)), Subject: pkix.Name{CommonName: "CA"}, NotBefore: from.Add(-time.Hour),
		NotAfter: from.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert = a.sign(a.cert, a.cert, a.key.Public())
	return a
}

func (a *authority) sign(c, by *x509.Certificate, key any) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, by, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return out
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// vouch makes a certificate of a node, valid for a day, and has it vouch for a key.
func (a *authority) vouch(node string, key ed25519.PublicKey, from time.Time) *seal.Proof {
	a.t.Helper()
	own := keyOf(77)
	c := a.sign(&x509.Certificate{SerialNumber: big.NewInt(5), NotBefore: from, NotAfter: from.AddDate(0, 0, 1),
		URIs: []*url.URL{{Scheme: "spiffe", Host: "culvert", Path: "/node/" + node}}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, a.cert, own.Public())
	p, err := seal.Vouch(node, key, c.Raw, own)
	if err != nil {
		a.t.Fatal(err)
	}
	return p
}

// TestKeysAreVouchedFor: which key is a node's is the log's word, unless the auditor believes a CA; then each has to be its, and without one
// a second key is a finding.
func TestKeysAreVouchedFor(t *testing.T) {
	w := newWorld(t, false)
	now := w.now
	ca, other := newAuthority(t, 60, now), newAuthority(t, 61, now)
	damaged := ca.vouch("i-x", public(40), now)
	damaged.Signature[7] ^= 1
	for name, c := range map[string]struct {
		proofs   []*seal.Proof // of the keys 40, 41 and so on
		believes bool
		want     string // of the findings on keys; empty: there is none
	}{
		"the first, by the log's word":   {[]*seal.Proof{nil}, false, ""},
		"the first, not vouched for":     {[]*seal.Proof{nil}, true, "no certificate of the node vouches for it"},
		"the first, vouched for":         {[]*seal.Proof{ca.vouch("i-x", public(40), now)}, true, ""},
		"another one, by the log's word": {[]*seal.Proof{nil, nil}, false, "another key than leaf"},
		"another one, nobody to judge":   {[]*seal.Proof{nil, ca.vouch("i-x", public(41), now)}, false, "no CA is given"},
		"another one, vouched for":       {[]*seal.Proof{ca.vouch("i-x", public(40), now), ca.vouch("i-x", public(41), now)}, true, ""},
		"another one, not vouched for":   {[]*seal.Proof{ca.vouch("i-x", public(40), now), nil}, true, "another key than leaf"},
		"by another CA":                  {[]*seal.Proof{other.vouch("i-x", public(40), now)}, true, "unknown authority"},
		"of another node":                {[]*seal.Proof{ca.vouch("i-y", public(40), now)}, true, "not signed"},
		"of another key":                 {[]*seal.Proof{ca.vouch("i-x", public(41), now)}, true, "not signed"},
		"long after the certificate":     {[]*seal.Proof{ca.vouch("i-x", public(40), now.AddDate(0, 0, -3))}, true, "expired"},
		"damaged":                        {[]*seal.Proof{damaged}, true, "not signed"},
		"no certificate at all":          {[]*seal.Proof{{Certificate: []byte("x"), Signature: []byte("y")}}, true, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, false)
			for i, p := range c.proofs {
				l := leaf.OfNodeKey(w.now, "i-x", public(byte(40+i)))
				l.NodeKey.Proof = p
				w.append(l)
			}
			w.stop()
			if c.believes {
				keys, err := ParseKeys(w.text + "# the mesh's CA\n" + ca.pem())
				if err != nil {
					t.Fatal(err)
				}
				w.keys = keys
			}
			r := Run(w.dir(), w.keys, Options{})
			var got []string
			for _, f := range r.Findings {
				if strings.Contains(f.What, "gives the node i-x") {
					got = append(got, f.What)
				}
			}
			if (c.want == "") != (len(got) == 0) || len(got) > 1 || len(got) == 1 && !strings.Contains(got[0], c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
			if vouched := c.believes && c.want == ""; r.Keys[0].Vouched != (vouched || len(c.proofs) == 2 && c.believes) {
				t.Errorf("%+v", r.Keys)
			}
			if r := Run(w.dir(), w.keys, Options{Node: "i-y"}); len(r.Findings) > 0 && strings.Contains(r.Findings[0].What, "gives the node") {
				t.Errorf("asked for another node: %+v", r.Findings[0])
			}
		})
	}
	later := []*seal.Proof{nil, ca.vouch("i-x", public(40), now)}
	for name, c := range map[string]struct {
		proofs []*seal.Proof // of one key
		want   bool          // it is found
	}{
		"vouched for later": {later, false}, "vouched for later and again": {append(later, ca.vouch("i-x", public(40), now)), false},
		"vouched for before": {[]*seal.Proof{later[1], nil}, false}, "never": {[]*seal.Proof{nil, damaged}, true},
		"by nobody and by another CA": {[]*seal.Proof{nil, other.vouch("i-x", public(40), now)}, true},
	} {
		w := newWorld(t, false)
		for _, p := range c.proofs {
			l := leaf.OfNodeKey(w.now, "i-x", public(40))
			l.NodeKey.Proof = p
			w.append(l)
		}
		w.stop()
		keys, err := ParseKeys(w.text + ca.pem())
		if err != nil {
			t.Fatal(err)
		}
		r := Run(w.dir(), keys, Options{})
		if r.OK == c.want || len(r.Findings) > 1 || len(r.Keys) != 1 || r.Keys[0].Vouched == c.want || r.Keys[0].Leaf != 1 {
			t.Errorf("%s: %+v, %+v", name, r.Findings, r.Keys)
		}
	}
	for name, text := range map[string]string{
		"no end":  strings.ReplaceAll(ca.pem(), endCertificate, ""),
		"no PEM":  beginCertificate + "\n!\n" + endCertificate + "\n",
		"no cert": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})),
	} {
		if _, err := ParseKeys(w.text + text); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
