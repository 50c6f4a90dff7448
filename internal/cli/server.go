package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/bucket"
	"github.com/culvert-net/culvert/audit/treelog"
	"github.com/culvert-net/culvert/controlplane"
	"github.com/culvert-net/culvert/internal/logkey"
	"github.com/culvert-net/culvert/internal/version"
)

// serverFlags are what the server's Config is made of.
type serverFlags struct {
	processFlags
	cfg          controlplane.Config
	adminKeyFile string
	verification string
	witnesses    []string
	witnessCA    string
	s3Config     string
	flowLogRoom  int64 // GiB
	etcdCA       string
	etcdCert     string
	etcdKey      string
}

func (a *app) serverCommand() *cobra.Command {
	var f serverFlags
	c := command("server [--data-dir DIR] [--listen ADDRESS]... [--admin-key-file FILE]",
		"Run the server: the control plane of a mesh", `
Run the server until it is stopped: it keeps the mesh's resources and tells every node what it may know. Everything it
needs is in --data-dir, the etcd that it embeds included; with --etcd-endpoints it uses that one instead. Nodes go on
forwarding while it is down.

At the first start it makes the CA, whose certificate is DATA-DIR/ca.pem, and a key for the administrator. The key goes
to --admin-key-file, which only its owner can read, or else is printed, once and never again.`, `
  culvert server --data-dir /var/lib/culvert --admin-key-file /etc/culvert-admin.key
  culvert server --listen 192.0.2.1:7443 --listen unix:/run/culvert/server.sock
  culvert server --etcd-endpoints https://10.0.0.1:2379 --etcd-ca ca.pem --etcd-cert c.pem --etcd-key k.pem`,
		func(cmd *cobra.Command, _ []string) error { return a.runServer(cmd.Context(), &f) })
	fs := c.Flags()
	fs.StringVar(&f.cfg.DataDir, "data-dir", "/var/lib/culvert", "`directory` for everything the server keeps")
	fs.StringArrayVar(&f.cfg.Listen, "listen", []string{":7443", "unix:/run/culvert/server.sock"},
		"`address` to serve at: HOST:PORT or unix:/PATH (may repeat)")
	fs.StringVar(&f.cfg.Region, "region", controlplane.DefaultRegion, "`name` of where this mesh is; fixed at the first start")
	fs.StringArrayVar(&f.cfg.ServerNames, "server-name", nil, "further `name` or address for the server's certificate (may repeat)")
	fs.StringVar(&f.adminKeyFile, "admin-key-file", "", "`file` for the administrator's key, at the first start")
	fs.StringSliceVar(&f.cfg.EtcdEndpoints, "etcd-endpoints", nil, "`URLs` of an etcd to use instead of the embedded one")
	fs.StringVar(&f.etcdCA, "etcd-ca", "", "`file` with the CA of that etcd")
	fs.StringVar(&f.etcdCert, "etcd-cert", "", "`file` with this server's certificate for that etcd")
	fs.StringVar(&f.etcdKey, "etcd-key", "", "`file` with the key of that certificate")
	fs.DurationVar(&f.cfg.ViewMaxAge, "view-max-age", controlplane.DefaultViewMaxAge,
		"how long a node goes on when it hears nothing")
	fs.DurationVar(&f.cfg.AcceptanceTimeout, "acceptance-timeout", controlplane.DefaultAcceptanceTimeout,
		"after which an endpoint that nobody accepted expires")
	fs.StringVar(&f.verification, "verification-resolver", "",
		"`server` asked for records that prove domains: ADDRESS, tcp://ADDRESS or tls://ADDRESS; none: nobody proves one")
	fs.DurationVar(&f.cfg.FlowRetention, "flow-retention", controlplane.DefaultFlowRetention,
		"how long flow records are kept")
	fs.StringArrayVar(&f.cfg.FlowLogDirs, "flow-log-directory", nil, "absolute `directory` that any account's flow logs may be delivered to (may repeat)")
	fs.Int64Var(&f.flowLogRoom, "flow-log-room", controlplane.DefaultFlowLogRoom>>30,
		"`GIB` of files that each account's flow logs may have in DATA-DIR/deliveries")
	fs.StringArrayVar(&f.cfg.FlowLogStreams, "flow-log-stream", nil, "`HOST:PORT` that any account's flow logs may be sent to (may repeat)")
	fs.StringVar(&f.s3Config, "s3-config", "", "`file` with buckets that flow logs may be put into, and their keys")
	fs.StringArrayVar(&f.witnesses, "witness", nil,
		"`\"KEY URL\"` of who cosigns the Merkle log: its verifier key, and its address (may repeat)")
	fs.StringVar(&f.witnessCA, "witness-ca", "", "`file` with the CA of witnesses at https://; none: those that this machine trusts")
	metricsFlag(c, &f.cfg.MetricsAddress, controlplane.DefaultMetricsAddress)
	f.flags(c)
	c.Args = noArguments
	return c
}

func (a *app) runServer(ctx context.Context, f *serverFlags) error {
	log, err := f.logger(a.Err)
	if err != nil {
		return err
	}
	if err := cmp.Or(f.check(), f.checkReady()); err != nil {
		return err
	}
	if f.cfg.EtcdTLS, err = f.etcdTLS(); err != nil {
		return err
	}
	if f.cfg.Witnesses, err = f.witnessList(); err != nil {
		return err
	}
	cfg := f.cfg
	cfg.Log, cfg.Version = log, version.Version()
	cfg.AdminKey = func(secret string) { a.keepAdminKey(log, f.adminKeyFile, secret) }
	cfg.Ready = func(i controlplane.Info) {
		log.Info("server runs", logkey.Addresses, i.Addresses, logkey.Region, cfg.Region)
		if f.ready == "" {
			return
		}
		if err := writeWhole(f.ready, fmt.Appendln(nil, os.Getpid())); err != nil {
			log.Error("ready file", logkey.Error, err)
		}
	}
	if f.ready != "" {
		defer os.Remove(f.ready)
	}
	return controlplane.New(cfg).Run(ctx)
}

// witnessList reads --witness.
func (f *serverFlags) witnessList() (all []treelog.Witness, err error) {
	for _, w := range f.witnesses {
		key, url, ok := strings.Cut(strings.TrimSpace(w), " ")
		if url = strings.TrimSpace(url); !ok || !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
			return nil, api.Errorf(api.CodeInvalidParameter, "--witness", "write \"KEY http://HOST:PORT\", in quotes", "%q is no key and address",
				api.Shortened(w))
		}
		all = append(all, treelog.Witness{URL: url, Key: key})
	}
	if f.witnessCA == "" {
		return all, nil
	}
	if len(all) == 0 {
		return nil, api.Errorf(api.CodeInvalidCombination, "--witness-ca", "add --witness, or leave it out", "there is no witness")
	}
	f.cfg.WitnessRoots, err = certificatesIn("--witness-ca", f.witnessCA)
	return all, err
}

// check finds what would fail later, or too late: the administrator's key is told once.
func (f *serverFlags) check() error {
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{
		{"--view-max-age", f.cfg.ViewMaxAge}, {"--acceptance-timeout", f.cfg.AcceptanceTimeout},
		{"--flow-retention", f.cfg.FlowRetention},
	} {
		if d.value < time.Minute {
			return api.Errorf(api.CodeInvalidParameter, d.flag, "use at least 1m", "%s is too short", d.value)
		}
	}
	if err := checkMetricsAddress(f.cfg.MetricsAddress); err != nil {
		return err
	}
	if err := f.checkNames(); err != nil {
		return err
	}
	if f.adminKeyFile != "" {
		return checkWritable("--admin-key-file", f.adminKeyFile)
	}
	return nil
}

// checkNames refuses what would be found out only after the data directory and the administrator's key were made.
func (f *serverFlags) checkNames() error {
	dir := f.cfg.DataDir
	if info, err := os.Stat(dir); dir == "" || err == nil && !info.IsDir() || err != nil && !errors.Is(err, os.ErrNotExist) {
		return invalidFlag("--data-dir", dir, "name a directory, which is made when it is not there")
	}
	if e := api.ValidateName("--region", f.cfg.Region); e != nil {
		return e
	}
	if f.verification != "" {
		var err error
		if f.cfg.LookupTXT, err = controlplane.LookupTXTAt(f.verification); err != nil {
			return invalidFlag("--verification-resolver", f.verification, "write ADDRESS[:53], tcp://ADDRESS[:53] or tls://ADDRESS[:853]")
		}
	}
	for _, name := range f.cfg.ServerNames {
		if _, err := netip.ParseAddr(name); err != nil && api.ValidateDomain("", name, 1) != nil {
			return invalidFlag("--server-name", name, "give a DNS name or address")
		}
	}
	if err := f.checkDestinations(); err != nil {
		return err
	}
	for _, l := range f.cfg.Listen {
		if path, unix := strings.CutPrefix(l, "unix:"); unix && filepath.IsAbs(path) {
			continue
		}
		host, port, err := net.SplitHostPort(l)
		if _, errPort := strconv.ParseUint(port, 10, 16); err != nil || errPort != nil || strings.ContainsAny(host, "/ ") {
			return invalidFlag("--listen", l, "write HOST:PORT, such as 192.0.2.1:7443 or :7443, or unix:/PATH")
		}
	}
	return nil
}

// checkDestinations refuses what no flow log could name.
func (f *serverFlags) checkDestinations() error {
	for _, d := range f.cfg.FlowLogDirs {
		if !filepath.IsAbs(d) || filepath.Clean(d) != d {
			return invalidFlag("--flow-log-directory", d, "give an absolute path, such as /srv/flow-logs")
		}
	}
	if f.flowLogRoom < 1 || f.flowLogRoom > 1<<20 {
		return invalidFlag("--flow-log-room", strconv.FormatInt(f.flowLogRoom, 10), "give 1 to 1048576 GiB")
	}
	f.cfg.FlowLogRoom = f.flowLogRoom << 30
	if f.s3Config != "" {
		var err error
		if f.cfg.FlowLogBuckets, err = bucket.Load(f.s3Config); err != nil {
			return err
		}
	}
	for _, address := range f.cfg.FlowLogStreams {
		host, port, err := net.SplitHostPort(address)
		if n, errPort := strconv.ParseUint(port, 10, 16); err != nil || errPort != nil || n == 0 || host == "" || host != strings.ToLower(host) {
			return invalidFlag("--flow-log-stream", address, "write HOST:PORT in lower case, such as siem.example.com:8088")
		}
	}
	return nil
}

// keepAdminKey never loses the key: what cannot be written is printed.
func (a *app) keepAdminKey(log *slog.Logger, file, secret string) {
	if file != "" {
		err := writeWhole(file, []byte(secret+"\n"))
		if err == nil {
			log.Info("the administrator's key was written", logkey.File, file)
			return
		}
		log.Error("the administrator's key could not be written; it is printed instead", logkey.Error, err)
	}
	fmt.Fprintf(a.Out, "The administrator's key. It is not shown again, and the server keeps only its hash:\n\n"+
		"  export CULVERT_API_KEY=%s\n\n", secret)
}

// etcdTLS is nil without an etcd that speaks it.
func (f *serverFlags) etcdTLS() (*tls.Config, error) {
	files := f.etcdCA + f.etcdCert + f.etcdKey
	if len(f.cfg.EtcdEndpoints) == 0 {
		if files != "" {
			return nil, api.Errorf(api.CodeInvalidCombination, "--etcd-endpoints", "give --etcd-endpoints too, or none of these",
				"--etcd-ca, --etcd-cert and --etcd-key are for an etcd that is not embedded")
		}
		return nil, nil
	}
	secure := 0
	for _, e := range f.cfg.EtcdEndpoints {
		switch {
		case strings.HasPrefix(e, "https://"):
			secure++
		case !strings.HasPrefix(e, "http://"):
			return nil, invalidFlag("--etcd-endpoints", e, "use https://HOST:PORT")
		}
	}
	switch {
	case secure != 0 && secure != len(f.cfg.EtcdEndpoints) || secure == 0 && files != "":
		return nil, api.Errorf(api.CodeInvalidCombination, "--etcd-endpoints", "use https:// for all of them",
			"some of them are without TLS")
	case (f.etcdCert == "") != (f.etcdKey == ""):
		return nil, api.Errorf(api.CodeInvalidCombination, "--etcd-cert", "give both, or none",
			"--etcd-cert and --etcd-key belong together")
	case secure == 0:
		return nil, nil
	}
	return f.loadEtcdTLS()
}

func (f *serverFlags) loadEtcdTLS() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.etcdCA != "" {
		var err error
		if c.RootCAs, err = certificatesIn("--etcd-ca", f.etcdCA); err != nil {
			return nil, err
		}
	}
	if f.etcdCert != "" {
		pair, err := tls.LoadX509KeyPair(f.etcdCert, f.etcdKey)
		if err != nil {
			return nil, api.Errorf(api.CodeInvalidParameter, "--etcd-cert", "name with it and with --etcd-key files in PEM that belong together",
				"they cannot be used: %v", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
