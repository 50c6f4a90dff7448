package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Lifetimes. Backdate allows for clocks that differ.
const (
	CALifetime     = 20 * 365 * 24 * time.Hour
	ServerLifetime = 30 * 24 * time.Hour
	NodeLifetime   = 24 * time.Hour
	// RenewalGrace is how long an expired node certificate still authenticates its own renewal.
	RenewalGrace = 30 * 24 * time.Hour
	Backdate     = 5 * time.Minute
)

// trustPath is how a node's SPIFFE id begins; the node's id follows.
const trustPath = "spiffe://culvert/node/"

// Authority signs certificates.
type Authority struct {
	key  crypto.Signer
	cert *x509.Certificate

	mu     sync.Mutex
	server *tls.Certificate // the newest server certificate
}

// Create makes a new authority and returns it with its key, which the caller keeps secret. Both are PEM.
func Create(now time.Time) (keyPEM, certPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("ca: make key: %w", err)
	}
	template, err := newTemplate("Culvert CA", now, CALifetime)
	if err != nil {
		return nil, nil, err
	}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("ca: sign own certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("ca: encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Load makes an authority of what Create returned.
func Load(keyPEM, certPEM []byte) (*Authority, error) {
	keyBlock, _ := pem.Decode(keyPEM)
	certBlock, _ := pem.Decode(certPEM)
	if keyBlock == nil || certBlock == nil {
		return nil, errors.New("ca: key or certificate is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("ca: decode key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("ca: a %T does not sign", key)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("ca: decode certificate: %w", err)
	}
	if pub, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cert.PublicKey) {
		return nil, errors.New("ca: key and certificate do not belong together")
	}
	return &Authority{key: signer, cert: cert}, nil
}

// PEM is the CA certificate.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// NotBefore is when the CA's certificate begins.
func (a *Authority) NotBefore() time.Time { return a.cert.NotBefore }

// NotAfter is when the CA's certificate expires.
func (a *Authority) NotAfter() time.Time { return a.cert.NotAfter }

// Fingerprint is the SHA-256 of the CA certificate, hexadecimal: the pin in join tokens.
func (a *Authority) Fingerprint() string {
	sum := sha256.Sum256(a.cert.Raw)
	return hex.EncodeToString(sum[:])
}

// ServerCertificate returns a server certificate for the names and addresses, made anew when a third of its life is left.
// The chain holds the CA's own certificate, for clients that know only its pin.
func (a *Authority) ServerCertificate(now time.Time, names []string, ips []net.IP) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.server != nil && now.Before(a.server.Leaf.NotAfter.Add(-ServerLifetime/3)) {
		return a.server, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("ca: make server key: %w", err)
	}
	template, err := newTemplate("Culvert server", now, ServerLifetime)
	if err != nil {
		return nil, err
	}
	template.DNSNames, template.IPAddresses = names, ips
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leaf, err := a.sign(template, key.Public())
	if err != nil {
		return nil, err
	}
	a.server = &tls.Certificate{Certificate: [][]byte{leaf.Raw, a.cert.Raw}, PrivateKey: key, Leaf: leaf}
	return a.server, nil
}

// ParseRequest decodes a certificate request and checks that its sender holds the key.
func ParseRequest(der []byte) (crypto.PublicKey, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	switch k := csr.PublicKey.(type) {
	case ed25519.PublicKey:
		return k, nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return k, nil
		}
	}
	return nil, errors.New("certificate request: the key must be ECDSA P-256 or Ed25519")
}

// SignNode makes a node's certificate. Of the request only the key counts: name and purpose are the authority's choice.
func (a *Authority) SignNode(node string, key crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	id, err := url.Parse(trustPath + node)
	if err != nil {
		return nil, fmt.Errorf("ca: SPIFFE id: %w", err)
	}
	template, err := newTemplate(node, now, NodeLifetime)
	if err != nil {
		return nil, err
	}
	template.URIs = []*url.URL{id}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.sign(template, key)
}

// Node returns the id of the node that a certificate speaks for. Within grace after its end an expired one still counts. One
// that is not valid yet counts, too: this authority alone makes them, so its own clock has gone back since.
func (a *Authority) Node(cert *x509.Certificate, now time.Time, grace time.Duration) (string, error) {
	at := now
	if now.After(cert.NotAfter) && !now.After(cert.NotAfter.Add(grace)) {
		at = cert.NotAfter
	}
	for _, c := range []*x509.Certificate{cert, a.cert} {
		if at.Before(c.NotBefore) {
			at = c.NotBefore
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return "", fmt.Errorf("node certificate: %w", err)
	}
	if len(cert.URIs) != 1 {
		return "", errors.New("node certificate: it needs exactly one SPIFFE id")
	}
	node, ok := strings.CutPrefix(cert.URIs[0].String(), trustPath)
	if !ok {
		return "", fmt.Errorf("node certificate: %s is not a node's id", cert.URIs[0])
	}
	return node, nil
}

// Serial is a certificate's serial number, hexadecimal.
func Serial(cert *x509.Certificate) string { return cert.SerialNumber.Text(16) }

func (a *Authority) sign(template *x509.Certificate, key crypto.PublicKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("ca: sign %q: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func newTemplate(name string, now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("ca: draw serial number: %w", err)
	}
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: name, Organization: []string{"Culvert"}},
		NotBefore:    now.Add(-Backdate),
		NotAfter:     now.Add(life),
	}, nil
}
