package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/dev"
)

// settings say where the server is and who calls: by flag, else by environment, else by the credentials file.
type settings struct {
	server, apiKey, caFile, account, socket string
	getenv                                  func(string) string
}

// credentials is the file ~/.config/culvert/credentials, YAML.
type credentials struct {
	Server  string `json:"server,omitempty"`
	CA      string `json:"ca,omitempty"` // path
	APIKey  string `json:"apiKey,omitempty"`
	Account string `json:"account,omitempty"`
	Socket  string `json:"agentSocket,omitempty"`
}

func (s *settings) credentialsFile() string {
	home := s.getenv("HOME")
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".config", "culvert", "credentials")
}

func (s *settings) readCredentials() (c credentials, err error) {
	path := s.credentialsFile()
	if path == "" {
		return c, nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("credentials: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return c, api.Errorf(api.CodeAuthFailure, "", "run chmod 600 "+path, "%s can be read by others", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("credentials: %w", err)
	}
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		what := err.Error()
		if i := strings.LastIndex(what, "json: "); i >= 0 { // before that it only says that YAML was made JSON
			what = what[i+len("json: "):]
		}
		return credentials{}, api.Errorf(api.CodeInvalidParameter, "", "it may have server, ca, apiKey, account and agentSocket, as YAML",
			"%s: %s", path, what)
	}
	return c, nil
}

// resolve fills what no flag set.
func (s *settings) resolve() error {
	c, err := s.readCredentials()
	if err != nil {
		return err
	}
	s.server = cmp.Or(s.server, s.getenv("CULVERT_SERVER"), c.Server)
	s.caFile = cmp.Or(s.caFile, s.getenv("CULVERT_CA"), c.CA)
	s.apiKey = cmp.Or(s.apiKey, s.getenv("CULVERT_API_KEY"), c.APIKey)
	s.account = cmp.Or(s.account, s.getenv("CULVERT_ACCOUNT"), c.Account)
	s.socket = cmp.Or(s.socket, s.getenv("CULVERT_AGENT_SOCKET"), c.Socket)
	return nil
}

// client makes a client of the server.
func (s *settings) client() (*client.Client, error) {
	if err := s.resolve(); err != nil {
		return nil, err
	}
	if err := s.complete(); err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(s.caFile)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidParameter, "--ca", "copy ca.pem from the server's data directory, and name it here",
			"the server's CA certificate cannot be read: %v", err)
	}
	c, err := client.New(client.Config{
		Address: s.server, CA: ca, APIKey: strings.TrimSpace(s.apiKey), Account: s.account, UserAgent: "culvert-cli",
	})
	if err != nil {
		return nil, badClient(err)
	}
	return c, nil
}

// badClient names the setting that a client is refused for.
func badClient(err error) error {
	text := err.Error()
	for _, s := range [][3]string{
		{"server CA", "--ca", "name the server's ca.pem with --ca or CULVERT_CA"},
		{"API key", "--api-key", "set CULVERT_API_KEY to the key as it was printed, one line"},
		{"account", "--account", "give the account's id or name with --account or CULVERT_ACCOUNT"},
	} {
		if strings.HasPrefix(text, s[0]) {
			return api.Errorf(api.CodeInvalidParameter, s[1], s[2], "%s", text)
		}
	}
	return api.Errorf(api.CodeInvalidParameter, "--server", "write https://HOST:PORT or unix:/PATH with --server or CULVERT_SERVER", "%s", text)
}

// complete reports what is missing for calling the server.
func (s *settings) complete() error {
	mesh := `; on the mesh of culvert dev up: eval "$(culvert dev env)"`
	missing := func(flag, variable, field, what string) error {
		return api.Errorf(api.CodeMissingParameter, flag,
			fmt.Sprintf("set %s, or %q in ~/.config/culvert/credentials%s", variable, field, mesh), "no %s is configured", what)
	}
	switch {
	case s.server == "":
		return missing("--server", "CULVERT_SERVER", "server", "server")
	case s.caFile == "":
		return missing("--ca", "CULVERT_CA", "ca", "CA certificate for "+s.server)
	case s.apiKey == "":
		return missing("--api-key", "CULVERT_API_KEY", "apiKey", "API key for "+s.server)
	}
	return nil
}

// agent makes a client of the local agent.
func (s *settings) agent() (*local.Client, error) {
	if err := s.resolve(); err != nil {
		return nil, err
	}
	return local.NewClient(s.socket), nil
}

// agentOf makes a client of the agent that hosts an ENI: the one that --socket names, else, when that ENI's node is a
// host of a development mesh on this machine, that host's, else this machine's.
func (s *settings) agentOf(ctx context.Context, c *client.Client, eni *api.ENI) (*local.Client, error) {
	if err := s.resolve(); err != nil {
		return nil, err
	}
	if s.socket != "" || c == nil || eni == nil || eni.Node == "" {
		return local.NewClient(s.socket), nil
	}
	lab, err := dev.New(dev.Config{Prefix: s.getenv("CULVERT_DEV_PREFIX")})
	if err != nil {
		return nil, err
	}
	if s.server != lab.ServerAddress() {
		return local.NewClient(""), nil
	}
	node, err := c.GetNode(ctx, eni.Node)
	if err != nil {
		return nil, err
	}
	return local.NewClient(lab.AgentSocket(node.Name)), nil
}
