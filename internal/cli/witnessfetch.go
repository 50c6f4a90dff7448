package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/verify"
)

const (
	// maxWitnessed bounds what a witness answers, and maxWitnessFile a file of its checkpoints, in bytes.
	maxWitnessed   = 64 << 10
	maxWitnessFile = 64 << 20
	// witnessPatience is how long an answer is waited for.
	witnessPatience = 10 * time.Second
)

// certificatesIn reads the certificates of a file in PEM.
func certificatesIn(flag, path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidParameter, flag, "name a file with a certificate in PEM", "it cannot be read: %v", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, invalidFlag(flag, path, "name a file with a certificate in PEM")
	}
	return pool, nil
}

// isAddress tells an address of a witness from a file.
func isAddress(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")
}

// witnessed are the checkpoints that --witness names: what witnesses told just now, or what stands in files.
func (f *verifyFlags) witnessed(ctx context.Context, keys verify.Keys, asOf time.Time) (all []verify.Kept, err error) {
	if len(f.witnesses) == 0 {
		if f.witnessCA != "" {
			return nil, api.Errorf(api.CodeInvalidCombination, "--witness-ca", "add --witness https://HOST, or leave it out", "no witness is asked")
		}
		return nil, nil
	}
	if len(keys.Witnesses) == 0 {
		return nil, api.Errorf(api.CodeInvalidCombination, "--witness", "put the witness's key beside the log's, as culvert witness --print-key prints it",
			"%s has no key of a witness", f.keys)
	}
	client := &http.Client{Timeout: witnessPatience}
	if f.witnessCA != "" {
		roots, err := certificatesIn("--witness-ca", f.witnessCA)
		if err != nil {
			return nil, err
		}
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}}
	}
	for _, from := range f.witnesses {
		var more []verify.Kept
		if isAddress(from) {
			more, err = askWitness(ctx, client, from, keys.Logs[0].Name(), asOf)
		} else {
			more, err = readWitnessed(from)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// readWitnessed reads a file of checkpoints, one behind the other.
func readWitnessed(path string) (all []verify.Kept, err error) {
	info, err := os.Stat(path)
	var text []byte
	if err == nil && info.Mode().IsRegular() && info.Size() <= maxWitnessFile {
		text, err = os.ReadFile(path)
	}
	parts := verify.SplitCheckpoints(string(text))
	if err != nil || len(parts) == 0 {
		return nil, api.Errorf(api.CodeInvalidParameter, "--witness", "name a witness's address, http:// or https://, or a file of what it cosigned",
			"%s is no address, and no file of at most %d MiB that has one", api.Shortened(path), maxWitnessFile>>20)
	}
	for i, one := range parts {
		all = append(all, verify.Kept{From: fmt.Sprintf("%s, checkpoint %d", path, i+1), Text: one, Witnessed: true})
	}
	return all, nil
}

// askWitness asks for what a witness cosigned of a log last, or last until a time.
func askWitness(ctx context.Context, client *http.Client, address, origin string, asOf time.Time) ([]verify.Kept, error) {
	refuse := func(format string, args ...any) error {
		return api.Errorf(api.CodeInvalidParameter, "--witness", "name the address of a witness of this log that answers, or a file of what it cosigned",
			"%s "+format, append([]any{api.Shortened(address)}, args...)...)
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, refuse("is no address")
	}
	u = u.JoinPath("checkpoint")
	q := url.Values{"origin": {origin}}
	if !asOf.IsZero() {
		q.Set("before", asOf.UTC().Format(time.RFC3339))
	}
	u.RawQuery = q.Encode()
	ctx, cancel := context.WithTimeout(ctx, witnessPatience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, refuse("is no address")
	}
	answer, err := client.Do(r)
	if err != nil {
		return nil, refuse("does not answer: %v", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxWitnessed+1))
	switch {
	case err != nil:
		return nil, refuse("broke off: %v", err)
	case answer.StatusCode != http.StatusOK:
		return nil, refuse("answers %s: %s", answer.Status, api.Shortened(strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))))
	case len(text) > maxWitnessed:
		return nil, refuse("answers more than %d KiB", maxWitnessed>>10)
	}
	return []verify.Kept{{From: "the checkpoint of " + address, Text: string(text), Witnessed: true}}, nil
}
