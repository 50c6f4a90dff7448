package state

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-net/culvert/api"
)

// Identity is what a node got when it joined, and its own TLS key.
type Identity struct {
	Node           string            `json:"nodeId"`
	Name           string            `json:"name"`
	Number         uint32            `json:"number"`
	Mesh           uint32            `json:"mesh"`
	Servers        []string          `json:"servers"`        // addresses of the control plane
	CAPEM          string            `json:"ca"`             // who signs servers and nodes
	CertificatePEM string            `json:"certificate"`    // this node's, SPIFFE id in its URI SAN
	KeyPEM         string            `json:"key"`            // its private key, PKCS #8
	ViewKey        ed25519.PublicKey `json:"viewSigningKey"` // who signs views
	Underlay       []string          `json:"underlayAddresses,omitempty"`
	// Ports that the node joined with; 0: the defaults.
	WireGuardPort uint16 `json:"wireGuardPort,omitempty"`
	GossipPort    uint16 `json:"gossipPort,omitempty"`
}

// LoadIdentity reads it, whole as it must be; the error says how to join when there is none.
func (d Dir) LoadIdentity() (*Identity, error) {
	var id Identity
	found, err := d.readJSON(identityFile, &id)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("%s: this node has not joined a mesh: run culvert agent join", d.Path(identityFile))
	}
	if len(id.ViewKey) != ed25519.PublicKeySize {
		return nil, d.unusable(identityFile, fmt.Errorf("viewSigningKey has %d bytes, not %d", len(id.ViewKey), ed25519.PublicKeySize))
	}
	if _, err := id.Certificate(); err != nil {
		return nil, d.unusable(identityFile, err)
	}
	return &id, nil
}

// HasIdentity reports whether the node has joined.
func (d Dir) HasIdentity() (bool, error) {
	var id Identity
	return d.readJSON(identityFile, &id)
}

// SaveIdentity replaces the identity.
func (d Dir) SaveIdentity(id *Identity) error { return d.writeJSON(identityFile, id) }

// Certificate is the node's key pair for TLS.
func (id *Identity) Certificate() (tls.Certificate, error) {
	c, err := tls.X509KeyPair([]byte(id.CertificatePEM), []byte(id.KeyPEM))
	if err != nil {
		return c, fmt.Errorf("node certificate: %w", err)
	}
	return c, nil
}

// Validity is when the node's certificate starts and ends.
func (id *Identity) Validity() (notBefore, notAfter time.Time, err error) {
	block, _ := pem.Decode([]byte(id.CertificatePEM))
	if block == nil {
		return notBefore, notAfter, errors.New("node certificate: no PEM block")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return notBefore, notAfter, fmt.Errorf("node certificate: %w", err)
	}
	return c.NotBefore, c.NotAfter, nil
}

// Take fills in what the control plane answered to a request made with this key.
func (id *Identity) Take(r *api.JoinResponse, keyPEM string) {
	id.Node, id.Number, id.Mesh = r.Node, r.Number, r.Mesh.Number
	id.CAPEM, id.ViewKey, id.KeyPEM = string(r.CA), r.ViewKey, keyPEM
	id.CertificatePEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate}))
}
