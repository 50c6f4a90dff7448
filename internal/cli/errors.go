package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
)

// report writes an error to w: one line, or for those who asked for JSON or YAML the object {"error": …} in the API's form.
func report(w io.Writer, format string, e *api.Error) {
	object := struct {
		Error *api.Error `json:"error"`
	}{e}
	a := &app{Streams: Streams{Out: w}, output: format}
	_ = a.print(object, func(w io.Writer) error { // there is nobody left to tell of a failure
		_, err := fmt.Fprintln(w, sentences(e))
		return err
	})
}

// render makes one line of an error: "Error: CODE: FIELD: MESSAGE. REMEDY." cmd may be nil.
func render(cmd *cobra.Command, err error) string { return sentences(explained(cmd, err)) }

// explained puts any error into the API's form, in words of the command line. Errors that are not the API's own have no
// code.
func explained(cmd *cobra.Command, err error) *api.Error {
	if missing := missingFlags(cmd); len(missing) > 0 && strings.HasPrefix(err.Error(), "required flag") {
		err = api.Errorf(api.CodeMissingParameter, missing[0], example(cmd), "%s needs it", cmd.CommandPath())
	}
	var e *api.Error
	var dial *net.OpError
	switch {
	case errors.As(err, &e):
		return inFlags(cmd, e)
	case errors.Is(err, context.DeadlineExceeded):
		what := strings.TrimSuffix(err.Error(), ": "+context.DeadlineExceeded.Error())
		return api.Errorf("Timeout", "", "give it longer with --timeout, or look at culvert status", "%s", what)
	case errors.Is(err, local.ErrNoAgent):
		return api.Errorf(api.CodeUnavailable, "", "", "%v", err)
	case errors.As(err, &dial) && dial.Op == "dial":
		return api.Errorf(api.CodeUnavailable, "", "is it running, and is --server (CULVERT_SERVER) right?",
			"the server does not answer: %v", dial)
	case errors.Is(err, os.ErrPermission):
		return api.Errorf("", "", "are you root?", "%v", err)
	}
	return api.Errorf("", "", "", "%v", err)
}

// sentences is the text of an error.
func sentences(e *api.Error) string {
	var b strings.Builder
	b.WriteString("Error: ")
	for _, word := range []string{string(e.Code), e.Field} {
		if word != "" {
			b.WriteString(word + ": ")
		}
	}
	if e.Code == "" && e.Remedy == "" {
		b.WriteString(unlessCommand(e.Message))
	} else {
		b.WriteString(sentence(e.Message))
	}
	if e.Remedy != "" {
		b.WriteString(" " + remedy(e.Remedy))
	}
	if e.RequestID != "" && e.Code == api.CodeInternal {
		b.WriteString(" The server's log has request " + e.RequestID + ".")
	}
	return b.String()
}

// flagsFor are the flags, without dashes, and the arguments that stand for the API's fields: the first that a command has.
// Other fields are called as in the API.
var flagsFor = map[string][]string{
	"acceptanceRequired": {"acceptance-required"}, "account": {"account"}, "addLoadBalancerIds": {"add-load-balancer"},
	"address": {"address"}, "addresses": {"subnet"}, "allowedPrincipals": {"allow", "ACCOUNT"}, "cidr": {"cidr"}, "clientIdentity": {"client-identity"},
	"description": {"description"}, "domain": {"DOMAIN"}, "domainName": {"DOMAIN"},
	"recordSets": {"NAME"}, "put": {"NAME", "PRIORITY"}, "remove": {"NAME", "PRIORITY"}, "type": {"TYPE"}, "values": {"VALUE"},
	"domains": {"domain", "DOMAIN"}, "action": {"ACTION"}, "priority": {"PRIORITY"},
	"blockResponse": {"block-response"}, "blockOverrideDomain": {"block-override-domain"},
	"blockOverrideTtlSeconds": {"block-override-ttl"}, "eniId": {"target", "eni", "ENI"},
	"endpointIds": {"ENDPOINT"}, "forwarders": {"forwarder"}, "fromPort": {"port"}, "groupId": {"sg"},
	"Idempotency-Key": {"idempotency-key"}, "idleTimeoutSeconds": {"idle-timeout"}, "interface": {"eni"}, "listener": {"LISTENER"},
	"listeners": {"listener"}, "loadBalancerIds": {"load-balancer"}, "maxBitsPerSecond": {"max-bits-per-second"},
	"maxConnectionsPerSecond": {"max-connections-per-second"}, "maxFlows": {"max-flows"}, "name": {"NAME"}, "nodeId": {"node", "host"},
	"nodeName": {"node"}, "plainForwarders": {"plain-forwarders"}, "port": {"port", "listener"},
	"ipAddressType": {"ip-address-type"}, "principals": {"ACCOUNT"}, "privateDnsEnabled": {"private-dns"}, "privateDnsName": {"private-dns-name"},
	"privateDnsNames": {"private-dns-name"}, "privateDnsPriority": {"private-dns-priority"},
	"protocol": {"protocol", "listener"}, "removeLoadBalancerIds": {"remove-load-balancer"}, "rule": {"RULE"},
	"securityGroupIds": {"sg"}, "service": {"service"}, "subnetId": {"subnet"}, "subnetIds": {"subnet"}, "tags": {"tag"},
	"fileFormat": {"file-format"}, "hiveCompatiblePartitions": {"hive-compatible-partitions"}, "logDestination": {"destination"},
	"logDestinationType": {"destination-type"}, "logFormat": {"log-format"},
	"maxAggregationIntervalSeconds": {"max-aggregation-interval"}, "onLoss": {"on-loss"}, "resourceId": {"resource"},
	"resourceType": {"resource"}, "trafficType": {"traffic-type"},
	"targetGroupId": {"target-group", "listener"}, "targets": {"target", "ENI"}, "toPort": {"port"}, "ttlSeconds": {"ttl", "record-ttl"},
	"underlayAddresses": {"underlay-address"}, "vpc": {"vpc"}, "vpcId": {"vpc"}, "vpcIds": {"vpc"}, "zone": {"zone"},
}

// fieldNames finds names of fields in prose: those that are no words of English.
var fieldNames = regexp.MustCompile(`\b[a-z]+[A-Z][A-Za-z]*\b`)

// inFlags names flags and arguments of a command where the server names fields and calls.
func inFlags(cmd *cobra.Command, e *api.Error) *api.Error {
	translated := *e
	e = &translated
	e.Remedy = commandsFor(e.Remedy)
	if cmd == nil {
		return e
	}
	word := func(field string) string { return cmp.Or(flagOf(cmd, field), field) }
	switch {
	case strings.HasPrefix(e.Field, "--"):
		return e
	case e.Field == "id":
		e.Field = named(cmd)
	case strings.HasSuffix(e.Field, "Seconds"):
		e.Remedy = wholeNumbers.ReplaceAllString(e.Remedy, "${0}s") // flags take durations
	}
	e.Field = word(e.Field[strings.LastIndexByte(e.Field, '.')+1:])
	e.Message, e.Remedy = fieldNames.ReplaceAllStringFunc(e.Message, word), fieldNames.ReplaceAllStringFunc(e.Remedy, word)
	return e
}

// flagOf is what a command has for a field of the API, such as --cidr or NAME; "" for none.
func flagOf(cmd *cobra.Command, field string) string {
	field, _, _ = strings.Cut(field, "[") // rules[0]
	for _, word := range flagsFor[field] {
		switch {
		case slices.Contains(arguments(cmd), word):
			return word
		case cmd.Flags().Lookup(word) != nil:
			return "--" + word
		}
	}
	return ""
}

// named is how a command was told which resource to work on: by an argument, or by the only flag that refers to one.
func named(cmd *cobra.Command) string {
	if first := append(arguments(cmd), "NAME")[0]; first != "NAME" && first != "COMMAND" {
		return first
	}
	var flags []string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Annotations[refersTo] != nil {
			flags = append(flags, "--"+f.Name)
		}
	})
	if len(flags) == 1 {
		return flags[0]
	}
	return ""
}

// arguments are those of the usage line.
func arguments(cmd *cobra.Command) []string {
	_, usage, _ := strings.Cut(cmd.Use, " ")
	return argumentNames.FindAllString(flagNames.ReplaceAllString(usage, ""), -1)
}

var (
	wholeNumbers = regexp.MustCompile(`\b[0-9]+\b`)
	// What a usage line has: flags with their values, and arguments.
	flagNames     = regexp.MustCompile(`--?[a-z][a-z-]*( [A-Za-z0-9][^ \]]*)?`)
	argumentNames = regexp.MustCompile(`[A-Z]+`)
)

// listCommands name the command that lists a kind, where the server's remedies name the HTTP call.
var listCommands = map[api.Kind]string{
	api.KindAccount: "account list", api.KindVPC: "vpc list", api.KindSubnet: "subnet list", api.KindENI: "eni list",
	api.KindSecurityGroup: "sg list", api.KindTargetGroup: "target-group list", api.KindLoadBalancer: "load-balancer list",
	api.KindService: "service list", api.KindEndpoint: "endpoint list", api.KindConnection: "service connections",
	api.KindDomain: "domain list", api.KindHostedZone: "hosted-zone list",
	api.KindFlowLog:      "flow-log list",
	api.KindResolverRule: "resolver-rule list", api.KindFirewallRuleGroup: "dns-firewall list", api.KindFirewallDomainList: "dns-firewall domain-list list",
	api.KindQueryLog: "query-log list",
	api.KindNode:     "node list", api.KindJoinToken: "token list", api.KindAPIKey: "key list",
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
	ended := strings.ContainsAny(s[max(0, len(s)-1):], ".?!") || strings.HasSuffix(s, ".)")
	if s == "" || ended || strings.Contains(s, "\n") {
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
	if words := cmd.Flags().Args(); len(words) > 0 && cmd.Annotations[holdsOthers] != "" { // they came before the flag
		return noCommand(cmd, words[0])
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
		return notEmpty(args, names)
	}
}

// notEmpty refuses arguments that say nothing, such as those of a variable that is not set.
func notEmpty(args, names []string) error {
	last := len(names) - 1
	if names[last] == "COMMAND" { // whose own arguments may be empty
		args = args[:min(len(args), len(names))]
	}
	if i := slices.Index(args, ""); i >= 0 {
		name := names[min(i, last)]
		return api.Errorf(api.CodeMissingParameter, name, "give it; is a variable of the shell not set?", "the argument %s is empty", name)
	}
	return nil
}

// atLeast demands one argument per name; more are of the last kind.
func atLeast(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return missingArgument(cmd, names[len(args)])
		}
		return notEmpty(args, names)
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

func noCommand(group *cobra.Command, word string) error {
	hint := "see " + group.CommandPath() + " --help"
	if s := group.SuggestionsFor(word); len(s) > 0 {
		hint = "did you mean " + group.CommandPath() + " " + strings.Join(s, " or ") + "?"
	}
	return api.Errorf(api.CodeInvalidParameter, "", hint, "there is no command %q", group.CommandPath()+" "+word)
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
