package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/netns"
)

// Access is what a command needs to speak to the mesh.
type Access struct {
	Server  string `json:"server"`
	CA      string `json:"ca"` // path
	APIKey  string `json:"apiKey"`
	Account string `json:"account,omitempty"` // id; "" for the administrator
	// AgentSocket of the host asked for, if one was.
	AgentSocket string `json:"agentSocket,omitempty"`
}

// Admin returns a client with the administrator's key, acting for an account when one is named.
func (l *Lab) Admin(account string) (*client.Client, error) {
	key, err := os.ReadFile(l.adminKeyFile())
	if err != nil {
		return nil, fmt.Errorf("administrator's key of the development mesh: %w", err)
	}
	ca, err := os.ReadFile(l.CAFile())
	if err != nil {
		return nil, fmt.Errorf("CA of the development mesh: %w", err)
	}
	return client.New(client.Config{
		Address: l.ServerAddress(), CA: ca, APIKey: strings.TrimSpace(string(key)), Account: account, UserAgent: "culvert-dev",
	})
}

// Env tells how to speak to the mesh: as the administrator, or (account given by id or name) with a key of that account,
// which is made at first use and kept.
func (l *Lab) Env(ctx context.Context, account, host string) (*Access, error) {
	unlock, err := l.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	r, err := l.Load()
	if err != nil {
		return nil, err
	}
	a := &Access{Server: l.ServerAddress(), CA: l.CAFile()}
	if host != "" {
		if _, err := r.host(host); err != nil {
			return nil, err
		}
		a.AgentSocket = l.AgentSocket(host)
	}
	if account == "" {
		key, err := os.ReadFile(l.adminKeyFile())
		a.APIKey = strings.TrimSpace(string(key))
		return a, err
	}
	a.APIKey, a.Account, err = l.accountKey(ctx, account)
	return a, err
}

func (l *Lab) accountKey(ctx context.Context, ref string) (secret, account string, err error) {
	admin, err := l.Admin("")
	if err != nil {
		return "", "", err
	}
	defer admin.Close()
	found, err := admin.GetAccount(ctx, ref)
	if err != nil {
		return "", "", err
	}
	file := l.StateDir("keys", found.ID)
	data, err := os.ReadFile(file)
	if err == nil {
		return strings.TrimSpace(string(data)), found.ID, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", "", fmt.Errorf("key of account %s: %w", ref, err)
	}
	key, err := admin.CreateAPIKey(ctx, api.CreateAPIKeyRequest{Account: found.ID, Name: "dev"})
	if err != nil {
		return "", "", fmt.Errorf("key of account %s: %w", ref, err)
	}
	return key.Secret, found.ID, writeFile(file, []byte(key.Secret+"\n"))
}

// run runs a culvert command in a namespace to its end.
func (l *Lab) run(ctx context.Context, namespace string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, l.cfg.Program, args...)
	cmd.Env = append(cleanEnvironment(), env...)
	cmd.Dir = "/"
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := netns.Start(netns.Path(namespace), cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("culvert %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}
