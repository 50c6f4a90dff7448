package cli

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/verify"
	"github.com/culvert-net/culvert/audit/witness"
	"github.com/culvert-net/culvert/internal/logkey"
)

// witnessFlags are what a witness is made of.
type witnessFlags struct {
	processFlags
	state, listen, name, logs string
	tlsCert, tlsKey           string
	printKey                  bool
}

func (a *app) witnessCommand() *cobra.Command {
	var f witnessFlags
	c := command("witness --name NAME --logs FILE [--state-dir DIR] [--listen ADDRESS] [--tls-cert FILE --tls-key FILE]",
		"Run a witness, which cosigns other people's logs", `
Run a witness until it is stopped: it cosigns the checkpoints of the logs in FILE, each only if it goes on from the
one before. So a log cannot show one tree to one auditor and another tree to another. It should be run by somebody else
than the log, on another machine; it keeps a key and one small file a log, and needs no access to anything.

Whoever keeps a log starts the server with --witness and this witness's address and key; auditors put its key, which
--print-key prints, beside the log's. The protocol is C2SP tlog-witness, over HTTP, or HTTPS with --tls-cert: what is
sent is public and signed. It also tells at /checkpoint?origin=LOG what it cosigned last, or last until a time: so who
verifies with culvert flows verify --witness sees what was cut off.`, `
  culvert witness --name witness.example.org --logs logs.keys --listen 0.0.0.0:7450
  culvert witness --name witness.example.org --logs logs.keys --listen :7450 --tls-cert w.pem --tls-key w.key
  culvert witness --name witness.example.org --print-key`,
		func(cmd *cobra.Command, _ []string) error { return a.runWitness(cmd.Context(), &f) })
	fs := c.Flags()
	fs.StringVar(&f.name, "name", "", "`name` of this witness in its signatures, such as a DNS name; fixed at the first start")
	fs.StringVar(&f.logs, "logs", "", "`file` with the public keys of the logs to cosign, one a line")
	fs.StringVar(&f.state, "state-dir", "/var/lib/culvert-witness", "`directory` for its key and what it has signed")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:7450", "`address` to serve at, HOST:PORT")
	fs.StringVar(&f.tlsCert, "tls-cert", "", "`file` with a certificate to serve HTTPS with; read again when it changes")
	fs.StringVar(&f.tlsKey, "tls-key", "", "`file` with the key of that certificate")
	fs.BoolVar(&f.printKey, "print-key", false, "print its public key, and make one if there is none, instead of running")
	f.flags(c)
	for _, file := range []string{"logs", "tls-cert", "tls-key"} {
		must(c.MarkFlagFilename(file))
	}
	c.Args = noArguments
	return c
}

func (a *app) runWitness(ctx context.Context, f *witnessFlags) error {
	log, err := f.logger(a.Err)
	if err != nil {
		return err
	}
	if f.name == "" || len(f.name) > 255 || strings.ContainsFunc(f.name, func(r rune) bool { return r <= ' ' || r == '+' || r > '~' }) {
		return invalidFlag("--name", f.name, "give a name without spaces and +, such as witness.example.org")
	}
	if f.printKey {
		key, err := witnessKey(f.state)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.Out, witness.VerifierKey(f.name, key.Public().(ed25519.PublicKey)))
		return err
	}
	keys, err := f.keys()
	if err != nil {
		return err
	}
	if err := cmp.Or(checkAddress("--listen", f.listen), f.checkReady()); err != nil {
		return err
	}
	secure, err := f.tlsConfig(log)
	if err != nil {
		return err
	}
	key, err := witnessKey(f.state)
	if err != nil {
		return err
	}
	signer, err := witness.NewSigner(f.name, key)
	if err != nil {
		return err
	}
	return serveWitness(ctx, f, log, secure, witness.New(f.state, signer, keys.Logs, log))
}

func serveWitness(ctx context.Context, f *witnessFlags, log *slog.Logger, secure *tls.Config, h http.Handler) error {
	l, err := net.Listen("tcp", f.listen)
	if err != nil {
		return api.Errorf(api.CodeInvalidParameter, "--listen", "name an address of this machine that is free", "%v", err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		TLSConfig: secure, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	log.Info("witness runs", logkey.Address, l.Addr().String(), logkey.Name, f.name)
	if f.ready != "" {
		if err := writeWhole(f.ready, fmt.Appendln(nil, os.Getpid())); err != nil {
			return errors.Join(err, l.Close())
		}
		defer os.Remove(f.ready)
	}
	serve := s.Serve
	if secure != nil {
		serve = func(l net.Listener) error { return s.ServeTLS(l, "", "") }
	}
	if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

func (f *witnessFlags) keys() (verify.Keys, error) {
	text, err := os.ReadFile(f.logs)
	if err != nil {
		return verify.Keys{}, api.Errorf(api.CodeInvalidParameter, "--logs", "name a file with the logs' public keys", "%v", err)
	}
	keys, err := verify.ParseLogs(string(text))
	if err != nil {
		return keys, api.Errorf(api.CodeInvalidParameter, "--logs", "write one verifier key a line, as culvert log-key prints it", "%s: %v", f.logs, err)
	}
	return keys, nil
}

// checkAddress refuses what is no HOST:PORT.
func checkAddress(flag, address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil || strings.ContainsAny(host, "/ ") {
		return invalidFlag(flag, address, "write HOST:PORT, such as 127.0.0.1:7450")
	}
	return nil
}

// witnessKey reads the key of the state directory, or makes one.
func witnessKey(dir string) (ed25519.PrivateKey, error) {
	key, err := witness.Key(dir)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidParameter, "--state-dir", "name a directory that is the witness's own", "%v", err)
	}
	return key, nil
}
