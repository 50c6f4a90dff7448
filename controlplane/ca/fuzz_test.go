package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
)

// FuzzParseRequest: a request gives a key of one of two kinds, and its certificate names what the authority chose.
func FuzzParseRequest(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	_, short, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for _, signer := range []crypto.Signer{key, short} {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"other"},
			EmailAddresses: []string{"a@b"}}, signer)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
		f.Add(der[:len(der)/2])
	}
	authority := authority(f)
	f.Fuzz(func(t *testing.T, der []byte) {
		public, err := ParseRequest(der)
		if err != nil {
			if public != nil {
				t.Errorf("refused and yet %v", public)
			}
			return
		}
		cert, err := authority.SignNode("node-00000000000000001", public, now)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := authority.Node(cert, now, 0); err != nil || id != "node-00000000000000001" {
			t.Errorf("the certificate is of %q: %v", id, err)
		}
		if len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) > 0 || cert.IsCA || len(cert.URIs) != 1 {
			t.Errorf("the request chose names: %+v", cert)
		}
	})
}
