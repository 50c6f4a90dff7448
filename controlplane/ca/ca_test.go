package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"net"
	"testing"
	"time"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func authority(t testing.TB) *Authority {
	t.Helper()
	key, cert, err := Create(now)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Load(key, cert)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func request(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestNodeCertificates(t *testing.T) {
	a, other := authority(t), authority(t)
	_, key, _ := ed25519.GenerateKey(nil)
	pub, err := ParseRequest(request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.SignNode("node-1", pub, now)
	if err != nil {
		t.Fatal(err)
	}
	end := cert.NotAfter
	for name, c := range map[string]struct {
		a     *Authority
		at    time.Time
		grace time.Duration
		ok    bool
	}{
		"now":            {a, now, 0, true},
		"last moment":    {a, end, 0, true},
		"expired":        {a, end.Add(time.Second), 0, false},
		"within grace":   {a, end.Add(RenewalGrace), RenewalGrace, true},
		"after grace":    {a, end.Add(RenewalGrace + time.Second), RenewalGrace, false},
		"not yet":        {a, now.Add(-time.Hour), 0, true},
		"foreign issuer": {other, now, RenewalGrace, false},
	} {
		got, err := c.a.Node(cert, c.at, c.grace)
		if (err == nil) != c.ok || c.ok && got != "node-1" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestServerCertificateIsNoNode(t *testing.T) {
	a := authority(t)
	first, err := a.ServerCertificate(now, []string{"server.test"}, []net.IP{net.IPv4(192, 0, 2, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Node(first.Leaf, now, 0); err == nil {
		t.Error("a server certificate passes for a node's")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.PEM())
	for _, name := range []string{"server.test", "192.0.2.1"} {
		if _, err := first.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: now}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if again, _ := a.ServerCertificate(now.Add(ServerLifetime/2), nil, nil); again != first {
		t.Error("made anew too early")
	}
	if again, _ := a.ServerCertificate(now.Add(ServerLifetime*3/4), nil, nil); again == first {
		t.Error("not made anew in time")
	}
}

func TestRequestsAreChecked(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	wide, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	good, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	forged := request(t, good)
	forged[len(forged)-1] ^= 1
	for name, der := range map[string][]byte{"RSA": request(t, weak), "P-384": request(t, wide), "forged": forged, "none": nil} {
		if _, err := ParseRequest(der); err == nil {
			t.Errorf("%s passes", name)
		}
	}
	if _, err := ParseRequest(request(t, good)); err != nil {
		t.Error(err)
	}
	k1, _, _ := Create(now)
	_, c2, _ := Create(now)
	if _, err := Load(k1, c2); err == nil {
		t.Error("key and certificate of two authorities load")
	}
}
