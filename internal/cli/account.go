package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

var accountKind = kind[api.Account]{
	command: "account", arg: "ACCOUNT", noun: "account", plural: "accounts", sample: "shop",
	list: (*client.Client).ListAccounts, watch: (*client.Client).WatchAccounts,
	get: (*client.Client).GetAccount, remove: (*client.Client).DeleteAccount,
	head: []string{"ID", "NAME", "DOMAINS"},
	row: func(v *api.Account) []string {
		return []string{v.ID, v.Name, strings.Join(v.Domains, ",")}
	},
	whose: "You see your own; an administrator all.",
	empty: "There is no account yet. Make one: culvert account create shop",
}

func (a *app) accountCommand() *cobra.Command {
	g := group("account", "Tenants: who owns what", `
An account owns resources and sees only its own. Administrators make accounts and their keys.`, `
  culvert account create shop
  culvert account domain add pay pay.internal
  culvert account list`)
	var m mutation
	var r api.CreateAccountRequest
	create := command("create NAME", "Create an account", `
Create an account. With --domain it may use private DNS names in that domain; administrators answer for that.`, `
  culvert account create shop
  culvert account create pay --domain pay.internal`, nil)
	create.RunE = change(a, accountKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.Account, error) {
			r.Name = args[0]
			return cl.CreateAccount(ctx, r, o...)
		})
	create.Flags().StringArrayVar(&r.Domains, "domain", nil, "DNS `domain` that it owns (may repeat)")
	tags(create, &r.Tags)
	create.Args = exactly("NAME")
	m.flags(create)
	g.AddCommand(create, accountKind.listCommand(a), accountKind.describeCommand(a),
		accountKind.deleteCommand(a, "It must own nothing any more."), a.domainCommand())
	return g
}

func (a *app) domainCommand() *cobra.Command {
	g := group("domain", "DNS domains that an account owns", `
A service may have a private DNS name only in a domain that its account owns. The operator assigns domains; for private
top levels such as .internal that is the only way.`, `
  culvert account domain add pay pay.internal
  culvert account domain remove pay pay.internal`)
	verb := func(name, short, long, example string,
		call func(*client.Client, context.Context, string, string, ...client.Option) (*api.Account, error)) *cobra.Command {
		m := new(mutation)
		c := command(name+" ACCOUNT DOMAIN", short, long, example, nil)
		c.RunE = change(a, accountKind, m,
			func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.Account, error) {
				return call(cl, ctx, args[0], args[1], o...)
			})
		c.Args = exactly("ACCOUNT", "DOMAIN")
		c.ValidArgsFunction = positions(complete(a, accountKind), cobra.NoFileCompletions)
		m.flags(c)
		return c
	}
	g.AddCommand(
		verb("add", "Give an account a domain", `
Give an account a DNS domain. Its services may then have private DNS names equal to it or below it.`, `
  culvert account domain add pay pay.internal`, (*client.Client).AddDomain),
		verb("remove", "Take a domain away", `
Take a DNS domain away from an account. No service may have a private DNS name in it any more.`, `
  culvert account domain remove pay pay.internal`, (*client.Client).RemoveDomain))
	return g
}

var keyKind = kind[api.APIKey]{
	command: "key", arg: "KEY", noun: "API key", plural: "API keys", sample: "key-0a1b2c3d4e5f60718",
	list: (*client.Client).ListAPIKeys, watch: (*client.Client).WatchAPIKeys,
	remove: (*client.Client).DeleteAPIKey,
	head:   []string{"ID", "NAME", "ACCOUNT", "ADMIN", "LAST USED"},
	row: func(v *api.APIKey) []string {
		return []string{v.ID, v.Name, v.Account, yesNo(v.Admin), stamp(v.LastUsed)}
	},
	empty: "There is no API key yet. Make one: culvert key create --account ACCOUNT",
}

func (a *app) keyCommand() *cobra.Command {
	g := group("key", "API keys of accounts", `
An API key says who calls. It is bound to one account, or is an administrator's. The secret is shown once.`, `
  culvert key create ci --account shop
  culvert key list`)
	g.AddCommand(a.keyCreate(), keyKind.listCommand(a),
		keyKind.deleteCommand(a, "Whoever uses it is refused from then on."))
	return g
}

func (a *app) keyCreate() *cobra.Command {
	var r api.CreateAPIKeyRequest
	var m mutation
	c := command("create [NAME] --account ACCOUNT | --admin", "Create an API key", `
Create an API key for the account of --account, or with --admin an administrator's. Its secret is printed and never
shown again; with -q nothing else is printed.`, `
  culvert key create --account shop
  culvert key create ci --account shop
  CULVERT_API_KEY=$(culvert key create --account shop -q)
  culvert key create ops --admin`, nil)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		cl, err := a.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		if r.Account = a.account; r.Admin && !cmd.Flags().Changed("account") {
			r.Account = "" // an account that only the environment names is no contradiction
		}
		if r.Admin == (r.Account != "") {
			return api.Errorf(api.CodeInvalidCombination, "--account", "give --account ACCOUNT (CULVERT_ACCOUNT), or --admin",
				"whose key it is must be said, once")
		}
		r.Name = strings.Join(args, "")
		key, err := cl.CreateAPIKey(cmd.Context(), r, m.options()...)
		if err != nil {
			return err
		}
		if err := m.converge(cmd.Context(), a, cl, key.Revision); err != nil {
			return err
		}
		if a.quiet {
			_, err := fmt.Fprintln(a.Out, key.Secret)
			return err
		}
		return a.print(key, func(w io.Writer) error {
			if err := table(w, keyKind.head, [][]string{keyKind.row(&key.APIKey)}); err != nil {
				return err
			}
			_, err := fmt.Fprintf(w, "\nThe secret, which is not shown again:\n\n  export CULVERT_API_KEY=%s\n", key.Secret)
			return err
		})
	}
	c.Flags().BoolVar(&r.Admin, "admin", false, "make an administrator's key")
	c.Args = atMost("NAME")
	m.flags(c)
	return c
}
