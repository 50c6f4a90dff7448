package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
)

// render makes one line of an error: "Error: CODE: MESSAGE. REMEDY." Errors that are not the API's own have no code.
func render(cmd *cobra.Command, err error) string {
	if missing := missingFlags(cmd); len(missing) > 0 && strings.HasPrefix(err.Error(), "required flag") {
		err = api.Errorf(api.CodeMissingParameter, missing[0], example(cmd), "%s needs it", cmd.CommandPath())
	}
	var e *api.Error
	var dial *net.OpError
	switch {
	case errors.As(err, &e):
		return "Error: " + renderAPI(e)
	case errors.Is(err, context.DeadlineExceeded):
		what := strings.TrimSuffix(err.Error(), ": "+context.DeadlineExceeded.Error())
		return "Error: Timeout: " + sentence(what) + " Give it longer with --timeout, or look at culvert status"
	case errors.Is(err, local.ErrNoAgent):
		return "Error: " + string(api.CodeUnavailable) + ": " + sentence(err.Error())
	case errors.As(err, &dial) && dial.Op == "dial":
		return "Error: " + renderAPI(api.Errorf(api.CodeUnavailable, "", "is it running, and is --server (CULVERT_SERVER) right?",
			"the server does not answer: %v", dial))
	case errors.Is(err, os.ErrPermission):
		return "Error: " + sentence(err.Error()) + " Are you root?"
	}
	return "Error: " + unlessCommand(err.Error())
}

func renderAPI(e *api.Error) string {
	var b strings.Builder
	b.WriteString(string(e.Code) + ": ")
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(sentence(e.Message))
	if e.Remedy != "" {
		b.WriteString(" " + remedy(e.Remedy))
	}
	if e.RequestID != "" && e.Code == api.CodeInternal {
		b.WriteString(" The server's log has request " + e.RequestID + ".")
	}
	return b.String()
}

// listCommands name the command that lists a kind, where the server's remedies name the HTTP call.
var listCommands = map[api.Kind]string{
	api.KindAccount: "account list", api.KindVPC: "vpc list", api.KindSubnet: "subnet list", api.KindENI: "eni list",
	api.KindSecurityGroup: "sg list", api.KindTargetGroup: "target-group list", api.KindLoadBalancer: "load-balancer list",
	api.KindService: "service list", api.KindEndpoint: "endpoint list", api.KindConnection: "service connections",
	api.KindNode: "node list", api.KindJoinToken: "token list", api.KindAPIKey: "key list",
	"catalogue": "service catalogue", // no kind of its own
}

var httpList = regexp.MustCompile(`GET /v1/(?:services/\{id\}/)?([a-z-]+)`)

// commandsFor puts commands and flags where the server, which knows of none, names calls and headers.
func commandsFor(remedy string) string {
	remedy = strings.ReplaceAll(remedy, "the header Culvert-Account (--account)", "--account (CULVERT_ACCOUNT)")
	return httpList.ReplaceAllStringFunc(remedy, func(call string) string {
		if c, ok := listCommands[api.Kind(httpList.FindStringSubmatch(call)[1])]; ok {
			return "culvert " + c
		}
		return call
	})
}

func remedy(s string) string { return unlessCommand(capital(commandsFor(s))) }

// unlessCommand makes a sentence of s, without a full stop where that would look like a part of a command.
func unlessCommand(s string) string {
	if strings.Contains(s, "culvert ") {
		return s
	}
	return sentence(s)
}

// sentence ends s with a full stop unless it ends like a sentence already, or is of several lines.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	if s == "" || strings.ContainsAny(s[len(s)-1:], ".?!)") || strings.Contains(s, "\n") {
		return s
	}
	return s + "."
}

func capital(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

func missingFlags(cmd *cobra.Command) []string {
	var missing []string
	if cmd == nil {
		return nil
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if r := f.Annotations[cobra.BashCompOneRequiredFlag]; len(r) > 0 && r[0] == "true" && !f.Changed {
			missing = append(missing, "--"+f.Name)
		}
	})
	return missing
}

func flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	see := "see " + cmd.CommandPath() + " --help"
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		takes := "what it takes"
		if t, ok := valueTypes[invalid.GetFlag().Value.Type()]; ok {
			takes = t
		}
		return api.Errorf(api.CodeInvalidParameter, "--"+invalid.GetFlag().Name, see, "%q is not %s", invalid.GetValue(), takes)
	}
	return api.Errorf(api.CodeInvalidParameter, "", see, "%s", err)
}

// valueTypes say what flags take, by pflag's names of types.
var valueTypes = map[string]string{
	"bool": "true or false", "int": "a whole number", "uint16": "a number from 0 to 65535",
	"uint32": "a number from 0 to 4294967295", "duration": "a duration such as 30s or 1h", "stringToString": "KEY=VALUE",
}

// exactly demands one argument per name.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return missingArgument(cmd, names[len(args)])
		}
		if len(args) > len(names) {
			return tooMany(cmd, args[len(names)])
		}
		return nil
	}
}

// atLeast demands one argument per name; more are of the last kind.
func atLeast(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return missingArgument(cmd, names[len(args)])
		}
		return nil
	}
}

// atMost allows one argument per name.
func atMost(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > len(names) {
			return tooMany(cmd, args[len(names)])
		}
		return nil
	}
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return tooMany(cmd, args[0])
	}
	return nil
}

func missingArgument(cmd *cobra.Command, name string) error {
	return api.Errorf(api.CodeMissingParameter, "", example(cmd), "%s needs the argument %s", cmd.CommandPath(), name)
}

func tooMany(cmd *cobra.Command, arg string) error {
	return api.Errorf(api.CodeInvalidParameter, "", example(cmd), "%s does not take the argument %q", cmd.CommandPath(), arg)
}

func example(cmd *cobra.Command) string {
	first, _, _ := strings.Cut(strings.TrimSpace(cmd.Example), "\n")
	return fmt.Sprintf("for example: %s", first)
}
