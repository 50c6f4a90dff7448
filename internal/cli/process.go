package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/metrics"
)

// processFlags are common to the commands that run until they are stopped.
type processFlags struct {
	level, format string
	ready         string
}

var (
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"text", "json"}
)

func (p *processFlags) flags(c *cobra.Command) {
	p.logFlags(c)
	c.Flags().StringVar(&p.ready, "ready-file", "", "`file` to write once it is ready, with the process id; removed at the end")
}

// logFlags say how to log.
func (p *processFlags) logFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&p.level, "log-level", "info", "`level` of the least important lines to log: debug, info, warn or error")
	f.StringVar(&p.format, "log-format", "text", "`format` of the log, on standard error: text or json")
	c.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions(logLevels, cobra.ShellCompDirectiveNoFileComp))
	c.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions(logFormats, cobra.ShellCompDirectiveNoFileComp))
}

// logger writes to w as the flags say.
func (p *processFlags) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(p.level)); err != nil {
		return nil, invalidFlag("--log-level", p.level, "use "+strings.Join(logLevels, ", "))
	}
	o := &slog.HandlerOptions{Level: level}
	switch p.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, invalidFlag("--log-format", p.format, "use "+strings.Join(logFormats, " or "))
}

// metricsFlag says where a process shows its figures.
func metricsFlag(c *cobra.Command, to *string, def string) {
	c.Flags().StringVar(to, "metrics-address", def,
		"`address` to serve /metrics at, HOST:PORT or unix:/PATH, to everybody who reaches it; \"\" for nowhere")
}

func checkMetricsAddress(address string) error {
	if err := metrics.CheckAddress(address); err != nil {
		return api.Errorf(api.CodeInvalidParameter, "--metrics-address", "write it as 127.0.0.1:7445 or unix:/run/culvert/metrics.sock", "%v", err)
	}
	return nil
}

func invalidFlag(flag, value, remedy string) error {
	return api.Errorf(api.CodeInvalidParameter, flag, remedy, "%q is not valid", value)
}

// needRoot says so before anything fails half-way.
func needRoot(what string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return api.Errorf(api.CodeUnauthorized, "", "run it as root", "%s changes this machine's network, which only root may", what)
}

// checkReady refuses a ready file that could not be written: who waits for it would wait for ever.
func (p *processFlags) checkReady() error {
	if p.ready == "" {
		return nil
	}
	return checkWritable("--ready-file", p.ready)
}

// writeWhole replaces a file as a whole: 0600, in a directory that is made 0700 when it is missing.
func writeWhole(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(dir) // a key that was told must not be gone after the power was
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// checkWritable fails when writeWhole would.
func checkWritable(flag, path string) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return invalidFlag(flag, path, "name a file")
	}
	dir := filepath.Dir(path)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		var f *os.File
		if f, err = os.CreateTemp(dir, ".culvert-*"); err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
	}
	if err != nil {
		return api.Errorf(api.CodeInvalidParameter, flag, "name a file in a directory that can be written to", "%v", err)
	}
	return nil
}
