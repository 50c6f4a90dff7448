package controlplane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/badinput"
)

// TestBadJoins: what a machine may get wrong. None of it uses its token up: at the end the token still makes a node.
func TestBadJoins(t *testing.T) {
	var now atomic.Pointer[time.Time]
	at := time.Now()
	now.Store(&at)
	l := startLab(t, func(c *Config) { c.Now = func() time.Time { return *now.Load() } })
	l.host("host-a")
	expired := must(l.admin().CreateToken(l.ctx(), api.CreateTokenRequest{TTLSeconds: api.MinTokenTTL}))(t)
	_, used := l.joinRequest("host-u")
	must(l.joiner(used.Token).Join(l.ctx(), used))(t)
	_, good := l.joinRequest("host-b")
	later := at.Add(api.MinTokenTTL * time.Second)
	now.Store(&later)
	var rows []badinput.Row[api.JoinRequest]
	add := func(name string, code api.ErrorCode, field, remedy string, change func(*api.JoinRequest)) {
		r := good
		change(&r)
		rows = append(rows, badinput.Row[api.JoinRequest]{Name: name, In: r, Code: code, Field: field, Remedy: remedy})
	}
	id, rest, _ := strings.Cut(good.Token, ".")
	secret, pin, _ := strings.Cut(rest, ".")
	for name, token := range map[string]string{
		"expired": expired.Secret, "used": used.Token, "without its secret": id + ".." + pin, "an id only": id,
		"a letter less": id + "." + secret[1:] + "." + pin,
		"other case":    id + "." + strings.ToUpper(secret) + "." + pin, "four parts": good.Token + ".x",
		"a space before": " " + good.Token, "a line's end": good.Token + "\n",
		"half": good.Token[:len(good.Token)/2], "an API key": l.adminKey, "NUL": "\x00", "long": strings.Repeat("t", 100_000),
		"its hash": id + "." + l.s.Resources().JoinTokens[id].Hash,
	} {
		if name == "a line's end" {
			continue // a client cuts it off; the pin is not the server's to look at
		}
		add("token: "+name, api.CodeTokenInvalid, "token", "culvert token create", func(r *api.JoinRequest) { r.Token = token })
	}
	for name, text := range map[string]string{"none": "", "upper case": "HOST-B", "an underscore": "host_b",
		"a dot at the end": "host-b.", "two dots": "host..b", "a hyphen first": "-host",
		"a label of 64": strings.Repeat("h", 64), "a slash": "host/b", "dots": "..", "a line's end": "host\nb",
		"right-to-left override": "host\u202eb", "a space": "host b",
		"a terminal's escape": "\x1b[2J", "an IDN": "h\u00f6st", "NUL": "host\x00", "long": strings.Repeat("h.", 5000) + "h"} {
		add("name: "+name, api.CodeInvalidParameter, "name", "DNS name", func(r *api.JoinRequest) { r.Name = text })
	}
	add("name: an id", api.CodeInvalidParameter, "name", "not an id", func(r *api.JoinRequest) { r.Name = noNode })
	add("name: taken", api.CodeDuplicateName, "name", "another name", func(r *api.JoinRequest) { r.Name = "host-a" })
	overlay := api.NodeAddr(l.s.Resources().Mesh.Number, 1).String()
	for address, remedy := range map[string]string{
		"127.0.0.1": "other nodes", "127.8.8.8:51820": "other nodes", "::1": "other nodes", "224.0.0.1": "other nodes",
		"ff02::1": "other nodes", "0.0.0.0": "other nodes", "::": "other nodes",
		"0.1.2.3": "other nodes", "255.255.255.255": "other nodes", "240.0.0.1": "other nodes", "169.254.1.1": "other nodes",
		"fe80::1": "other nodes", "fe80::1%eth0": "ADDRESS:PORT",
		"::ffff:192.0.2.7": "write 192.0.2.7:51820", overlay: "other nodes", "[" + overlay + "]:51820": "other nodes",
		"192.0.2.7:0": "ADDRESS:PORT", "192.0.2.7:65536": "ADDRESS:PORT",
		"192.0.2.7:-1": "ADDRESS:PORT", "192.0.2.7:": "ADDRESS:PORT", "192.0.2.007": "ADDRESS:PORT", "192.0.2": "ADDRESS:PORT",
		"host.example:51820": "ADDRESS:PORT", "": "ADDRESS:PORT",
		"192.0.2.7/24": "ADDRESS:PORT", "192.0.2.7 ": "ADDRESS:PORT", "2001:db8::7:51820:x": "ADDRESS:PORT",
		"http://192.0.2.7": "ADDRESS:PORT", "192.0.2.7\n": "ADDRESS:PORT",
	} {
		add("underlay: "+address, api.CodeInvalidParameter, "underlayAddresses", remedy,
			func(r *api.JoinRequest) { r.Underlay = []string{address} })
	}
	add("underlay: twice", api.CodeInvalidParameter, "underlayAddresses", "once",
		func(r *api.JoinRequest) { r.Underlay = []string{"192.0.2.7", "192.0.2.7:51820"} })
	add("underlay: the last is bad", api.CodeInvalidParameter, "underlayAddresses", "other nodes",
		func(r *api.JoinRequest) { r.Underlay = []string{"192.0.2.7", "127.0.0.1"} })
	add("underlay: nine", api.CodeLimitExceeded, "underlayAddresses", "remove some", func(r *api.JoinRequest) {
		r.Underlay = slices.Repeat([]string{"192.0.2.7"}, api.MaxUnderlayPerNode+1)
	})
	add("underlay: unknown", api.CodeUnderlayAddressMissing, "underlayAddresses", "--underlay-address",
		func(r *api.JoinRequest) { r.Underlay = nil })
	for name, key := range map[string][]byte{"short": make([]byte, 31), "long": make([]byte, 33), "zero": make([]byte, 32),
		"of order 1": append([]byte{1}, make([]byte, 31)...),
		"of order 8": {0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
			0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
		"p-1": append(append([]byte{0xec}, slices.Repeat([]byte{0xff}, 30)...), 0x7f)} {
		add("key: "+name, api.CodeInvalidParameter, "publicKey", "wg pubkey",
			func(r *api.JoinRequest) { r.PublicKey = base64.StdEncoding.EncodeToString(key) })
	}
	add("key: in hexadecimal", api.CodeInvalidParameter, "publicKey", "wg pubkey",
		func(r *api.JoinRequest) { r.PublicKey = strings.Repeat("ab", 32) })
	add("key: another node's", api.CodeInvalidParameter, "publicKey", "new key",
		func(r *api.JoinRequest) { r.PublicKey = find1(l.s.Resources().Nodes, "host-a").PublicKey })
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	other := must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))(t)
	bent := slices.Clone(good.CSR)
	bent[len(bent)-1] ^= 1
	for name, csr := range map[string][]byte{"garbage": []byte("nonsense"), "half": good.CSR[:len(good.CSR)/2],
		"something behind": append(slices.Clone(good.CSR), 0), "a bad signature": bent,
		"PEM": []byte("-----BEGIN CERTIFICATE REQUEST-----\n"), "RSA": must(x509.CreateCertificateRequest(rand.Reader,
			&x509.CertificateRequest{}, rsaKey))(t),
		"P-521": must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, other))(t)} {
		add("request: "+name, api.CodeInvalidParameter, "csr", "PKCS #10", func(r *api.JoinRequest) { r.CSR = csr })
	}
	add("version: long", api.CodeInvalidParameter, "version", "shorten", func(r *api.JoinRequest) {
		r.Version = strings.Repeat("v",
			1000)
	})
	add("version: a line's end", api.CodeInvalidParameter, "version", "printable", func(r *api.JoinRequest) { r.Version = "1\n2" })
	joiner := must(client.New(client.Config{Address: l.info.Addresses[0], CA: l.info.CA}))(t)
	defer joiner.Close()
	badinput.Table(t, rows, l.stored, func(_ *testing.T, r api.JoinRequest) error {
		_, err := joiner.Join(l.ctx(), r)
		return err
	})
	raw := l.rawClient(nil)
	var ports []badinput.Row[string]
	for _, field := range []string{"wireguardPort", "gossipPort"} {
		for port, remedy := range map[string]string{"-1": "0 or more", "65536": "65535 or less", `"51820"`: "whole number",
			"1.5": "whole number"} {
			ports = append(ports, badinput.Row[string]{Name: field + " " + port, In: `"` + field + `":` + port,
				Code: api.CodeInvalidParameter, Field: field, Remedy: remedy})
		}
	}
	badinput.Table(t, ports, l.stored, func(t *testing.T, property string) error {
		return raw.do("POST", "/v1/node/join", "", `{"token":`+text(good.Token)+`,"name":"x","csr":"AAAA","publicKey":"",`+property+`}`).refused(t)
	})
	must(joiner.Join(l.ctx(), good))(t)
	l.check()
}
