package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"
)

// chain is a server's certificate and its CA's, good from one time to another.
func chain(t *testing.T, name string, from, to time.Time) []*x509.Certificate {
	t.Helper()
	var made []*x509.Certificate
	var parent *x509.Certificate
	var parentKey *ecdsa.PrivateKey
	for _, authority := range []bool{true, false} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to, IsCA: authority,
			BasicConstraintsValid: true}
		if !authority {
			c.DNSNames = []string{name}
		}
		if parent == nil {
			parent, parentKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		parent, parentKey = c, key
		made = append(made, c)
	}
	return []*x509.Certificate{made[1], made[0]}
}

func TestServersAreVerifiedWhateverTheClock(t *testing.T) {
	now := time.Now()
	good := chain(t, ServerName, now.Add(-time.Hour), now.Add(time.Hour))
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		at    time.Time
		want  string // of the error; empty: none
	}{
		"now":                       {good, now, ""},
		"a clock of long ago":       {good, time.Unix(0, 0), ""},
		"a clock that is ahead":     {good, now.Add(48 * time.Hour), "set the clock that is wrong"},
		"another name":              {chain(t, "else.example", now.Add(-time.Hour), now.Add(time.Hour)), now, "else.example"},
		"another name, no time yet": {chain(t, "else.example", now, now.Add(time.Hour)), time.Unix(0, 0), "else.example"},
		"nothing":                   {nil, now, "server certificate"},
	} {
		roots := x509.NewCertPool()
		pin := [sha256.Size]byte{}
		if len(c.chain) > 0 {
			roots.AddCert(c.chain[1])
			pin = sha256.Sum256(c.chain[1].Raw)
		}
		s := tls.ConnectionState{PeerCertificates: c.chain}
		for how, err := range map[string]error{"by CA": verifyServer(s, roots, c.at), "by pin": verifyPinned(s, pin[:], c.at)} {
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: %v", name, how, err)
			}
		}
	}
	// A chain that begins late is no way around a CA that is not ours.
	other := x509.NewCertPool()
	other.AddCert(chain(t, ServerName, now, now.Add(time.Hour))[1])
	if err := verifyServer(tls.ConnectionState{PeerCertificates: good}, other, time.Unix(0, 0)); err == nil {
		t.Error("another CA's certificate is taken")
	}
}
