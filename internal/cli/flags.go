package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// refersTo annotates a flag that names a resource with the kind's command.
const refersTo = "culvert_refers_to"

// reference adds a flag that names one resource, by id or name.
func reference[T any](a *app, c *cobra.Command, k kind[T], p *string, word, usage string) {
	c.Flags().StringVar(p, word, "", usage+", id or name")
	referTo(a, c, k, word)
}

// references adds a flag that may repeat. Each use names one resource.
func references[T any](a *app, c *cobra.Command, k kind[T], p *[]string, word, usage string) {
	c.Flags().StringArrayVar(p, word, nil, usage+", id or name (may repeat)")
	referTo(a, c, k, word)
}

func referTo[T any](a *app, c *cobra.Command, k kind[T], word string) {
	must(c.Flags().SetAnnotation(word, refersTo, []string{k.command}))
	must(c.RegisterFlagCompletionFunc(word, complete(a, k)))
}

// serviceReference adds the flag that names a service, one's own or another account's.
func serviceReference(a *app, c *cobra.Command, p *string, usage string) {
	c.Flags().StringVar(p, "service", "", usage+", `ACCOUNT/NAME` or id")
	must(c.Flags().SetAnnotation("service", refersTo, []string{serviceKind.command}))
	must(c.RegisterFlagCompletionFunc("service", completeServices(a)))
}

// choice adds a flag with few values. The server judges them, or who reads them.
func choice(c *cobra.Command, p *string, word, standard string, values ...string) {
	last := len(values) - 1
	usage := fmt.Sprintf("`%s`: %s or %s", strings.ToUpper(word), strings.Join(values[:last], ", "), values[last])
	c.Flags().StringVar(p, word, standard, usage)
	must(c.RegisterFlagCompletionFunc(word, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
}

func tags(c *cobra.Command, p *map[string]string) {
	c.Flags().StringToStringVar(p, "tag", nil, "`KEY=VALUE` (may repeat)")
	c.Flags().Lookup("tag").DefValue = "" // help would show an empty list
}

// required marks flags without which the command has no meaning.
func required(c *cobra.Command, words ...string) {
	for _, w := range words {
		must(c.MarkFlagRequired(w))
	}
}

// must reports a flag that does not exist or completes twice: a mistake in this package.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// fileLike are the value names of flags that the shell completes with files.
var fileLike = []string{"file", "path", "directory"}

// completeNothing keeps the shell from offering files for values that are none.
func completeNothing(c *cobra.Command) {
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		name, _ := pflag.UnquoteUsage(f)
		if _, has := c.GetFlagCompletionFunc(f.Name); has || f.Value.Type() == "bool" || slices.Contains(fileLike, name) ||
			len(f.Annotations[cobra.BashCompFilenameExt])+len(f.Annotations[cobra.BashCompSubdirsInDir]) > 0 {
			return
		}
		must(c.RegisterFlagCompletionFunc(f.Name, cobra.NoFileCompletions))
	})
	for _, sub := range c.Commands() {
		completeNothing(sub)
	}
}
