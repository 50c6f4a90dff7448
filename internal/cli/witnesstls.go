package cli

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
)

// certFiles are a certificate and its key in files, which are read again when they have changed: they are renewed while a process runs.
type certFiles struct {
	cert, key string
	log       *slog.Logger

	mu   sync.Mutex // guards what follows
	have *tls.Certificate
	at   [2]time.Time // of the files
}

// load reads the files if they have changed. While they cannot be used, what was read before stays.
func (c *certFiles) load() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var at [2]time.Time
	var errs []error
	for i, path := range []string{c.cert, c.key} {
		info, err := os.Stat(path)
		if errs = append(errs, err); err == nil {
			at[i] = info.ModTime()
		}
	}
	err := errors.Join(errs...)
	if err == nil && c.have != nil && at == c.at {
		return c.have, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(c.cert, c.key)
	}
	if err != nil && c.have == nil {
		return nil, err
	}
	if c.at = at; err != nil {
		c.log.Warn("the certificate cannot be read again, the one before is used", logkey.Error, err)
		return c.have, nil
	}
	c.have = &pair
	return c.have, nil
}

// tlsConfig is for a listener; nil: none of the flags is given, and it is plain.
func (f *witnessFlags) tlsConfig(log *slog.Logger) (*tls.Config, error) {
	if f.tlsCert == "" && f.tlsKey == "" {
		return nil, nil
	}
	if f.tlsCert == "" || f.tlsKey == "" {
		return nil, api.Errorf(api.CodeInvalidCombination, "--tls-cert", "give both, or none", "--tls-cert and --tls-key belong together")
	}
	files := &certFiles{cert: f.tlsCert, key: f.tlsKey, log: log}
	if _, err := files.load(); err != nil {
		return nil, api.Errorf(api.CodeInvalidParameter, "--tls-cert", "name with it and with --tls-key files in PEM that belong together",
			"they cannot be used: %v", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return files.load() }}, nil
}
