package verify

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	cosign "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/audit/tiles"
)

// Keys are whom the auditor believes.
type Keys struct {
	Logs      []note.Verifier // of the log: more than one where its key was changed
	Witnesses []note.Verifier
	// CA is the mesh's, which signs the certificates of nodes; nil: none is believed, and which key is a node's is the log's word.
	CA *x509.CertPool
}

// ParseKeys reads verifier keys, one a line: NAME+HASH+KEY. What is behind a # is a comment. Ed25519 keys are the log's, timestamped
// ones (algorithm 4, cosignature/v1) witnesses'. Certificates in PEM are of the mesh's CA.
func ParseKeys(text string) (Keys, error) {
	text, roots, err := certificates(text)
	if err != nil {
		return Keys{}, err
	}
	k, err := ParseLogs(text)
	if err != nil {
		return k, err
	}
	k.CA = roots
	for _, v := range k.Logs[1:] {
		if v.Name() != k.Logs[0].Name() {
			return k, fmt.Errorf("keys of two logs, %s and %s: one is verified at a time", k.Logs[0].Name(), v.Name())
		}
	}
	return k, nil
}

// ParseLogs is ParseKeys for keys of several logs, as witnesses have them.
func ParseLogs(text string) (Keys, error) {
	var k Keys
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		_, data, _ := strings.Cut(line, "+")
		_, data, _ = strings.Cut(data, "+")
		raw, err := base64.StdEncoding.DecodeString(data)
		if err != nil || len(raw) == 0 {
			return k, fmt.Errorf("line %d is no verifier key, which has the form NAME+HASH+KEY", n)
		}
		var v note.Verifier
		switch raw[0] {
		case tiles.AlgEd25519:
			if v, err = note.NewVerifier(line); err == nil {
				k.Logs = append(k.Logs, v)
			}
		case tiles.AlgCosignature:
			if v, err = cosign.NewVerifierForCosignatureV1(line); err == nil {
				k.Witnesses = append(k.Witnesses, v)
			}
		default:
			err = fmt.Errorf("algorithm %d is not known", raw[0])
		}
		if err != nil {
			return k, fmt.Errorf("line %d is no verifier key: %w", n, err)
		}
	}
	if len(k.Logs) == 0 {
		return k, errors.New("no key of a log: the server prints its own")
	}
	return k, nil
}

// certificates takes certificates out of a text.
func certificates(text string) (rest string, roots *x509.CertPool, err error) {
	var b strings.Builder
	var block strings.Builder
	inside := false
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		inside = inside || trimmed == beginCertificate
		if !inside {
			b.WriteString(line)
			continue
		}
		block.WriteString(trimmed + "\n")
		if trimmed != endCertificate {
			continue
		}
		p, _ := pem.Decode([]byte(block.String()))
		if p == nil {
			return "", nil, errors.New("a certificate is no PEM block")
		}
		cert, err := x509.ParseCertificate(p.Bytes)
		if err != nil {
			return "", nil, fmt.Errorf("a certificate cannot be read: %w", err)
		}
		if roots == nil {
			roots = x509.NewCertPool()
		}
		roots.AddCert(cert)
		block.Reset()
		inside = false
	}
	if inside {
		return "", nil, errors.New("a certificate has no end")
	}
	return b.String(), roots, nil
}

const beginCertificate, endCertificate = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
