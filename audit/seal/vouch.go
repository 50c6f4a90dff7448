package seal

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Proof is that who holds a node's certificate says which key seals the node's log.
type Proof struct {
	Certificate []byte `json:"certificate"` // DER
	Signature   []byte `json:"signature"`   // by the certificate's key, over the node and the key: see vouchText
}

// nodeURI is how the SPIFFE id of a node's certificate begins; the node's id follows.
const nodeURI = "spiffe://culvert/node/"

// MaxCertificate bounds the certificate of a proof, in bytes: those of nodes have some 500.
const MaxCertificate = 4 << 10

// vouchText is what is signed: no handshake of TLS signs such a text.
func vouchText(node string, key ed25519.PublicKey) []byte {
	return []byte("culvert: what seals the log of a node\n" + node + "\n" + hex.EncodeToString(key) + "\n")
}

// Vouch makes the proof that a key seals the log of the node whose certificate, in DER, and its key are given.
func Vouch(node string, key ed25519.PublicKey, certificate []byte, by crypto.Signer) (*Proof, error) {
	text := vouchText(node, key)
	var sig []byte
	var err error
	switch by.Public().(type) {
	case ed25519.PublicKey:
		sig, err = by.Sign(rand.Reader, text, crypto.Hash(0))
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(text)
		sig, err = by.Sign(rand.Reader, sum[:], crypto.SHA256)
	default:
		err = errors.New("the certificate's key is neither Ed25519 nor ECDSA")
	}
	if err != nil {
		return nil, fmt.Errorf("sign the key of the log: %w", err)
	}
	return &Proof{Certificate: certificate, Signature: sig}, nil
}

// Check tells whether the proof is of a node and a key. Whose certificate it is, the caller has to judge.
func (p *Proof) Check(node string, key ed25519.PublicKey) (*x509.Certificate, error) {
	if len(p.Certificate) > MaxCertificate {
		return nil, fmt.Errorf("its certificate has %d bytes, more than %d", len(p.Certificate), MaxCertificate)
	}
	cert, err := x509.ParseCertificate(p.Certificate)
	if err != nil {
		return nil, fmt.Errorf("its certificate cannot be read: %w", err)
	}
	algorithm := x509.PureEd25519
	if cert.PublicKeyAlgorithm == x509.ECDSA {
		algorithm = x509.ECDSAWithSHA256
	}
	if err := cert.CheckSignature(algorithm, vouchText(node, key), p.Signature); err != nil {
		return nil, fmt.Errorf("it is not signed by the key of its certificate: %w", err)
	}
	if len(cert.URIs) != 1 {
		return nil, errors.New("its certificate is no node's")
	}
	if id, ok := strings.CutPrefix(cert.URIs[0].String(), nodeURI); !ok || id != node {
		return nil, fmt.Errorf("its certificate is of %s", cert.URIs[0])
	}
	return cert, nil
}
