package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

// watchFlag adds --watch to a list.
func watchFlag(c *cobra.Command, watch *bool) {
	c.Flags().BoolVarP(watch, "watch", "w", false, "go on with what changes, until interrupted")
}

// showWatch prints what a watch tells, each event as it comes: as a row behind what happened, as a line of JSON or as a YAML
// document. The table begins when the list has come, so that its columns fit that.
func (k kind[T]) showWatch(ctx context.Context, a *app, w client.Watch[T]) error {
	p := watchPrinter[T]{k: k, a: a}
	for e, err := range w {
		if err != nil {
			if ctx.Err() != nil {
				return nil // interrupted, which is how it ends
			}
			return err
		}
		if err := p.print(e); err != nil {
			return err
		}
	}
	return nil
}

type watchPrinter[T any] struct {
	k      kind[T]
	a      *app
	first  []T
	synced bool
	widths []int
}

func (p *watchPrinter[T]) print(e api.WatchEvent[T]) error {
	switch {
	case p.a.quiet:
		if e.Item == nil {
			return nil
		}
		_, err := fmt.Fprintln(p.a.Out, api.ItemID(e.Item))
		return err
	case p.a.output == "json":
		enc := json.NewEncoder(p.a.Out)
		enc.SetEscapeHTML(false)
		return enc.Encode(e)
	case p.a.output == "yaml":
		b, err := toYAML(e)
		if err == nil {
			_, err = fmt.Fprintf(p.a.Out, "---\n%s", b)
		}
		return err
	}
	return p.row(e)
}

// changeHead is over what happened.
const changeHead = "CHANGE"

func (p *watchPrinter[T]) row(e api.WatchEvent[T]) error {
	switch {
	case !p.synced && e.Item != nil:
		p.first = append(p.first, *e.Item)
		return nil
	case e.Type == api.WatchSynced:
		p.synced = true
		return p.begin()
	case e.Item == nil:
		return nil
	}
	return p.line(append([]string{string(e.Type)}, p.k.row(e.Item)...))
}

// begin prints the head and what there is, and fixes the columns: what comes later does not move them.
func (p *watchPrinter[T]) begin() error {
	rows := [][]string{append([]string{changeHead}, p.k.head...)}
	for i := range p.first {
		rows = append(rows, append([]string{""}, p.k.row(&p.first[i])...))
	}
	p.first = nil
	p.widths = make([]int, len(rows[0]))
	p.widths[0] = len(api.WatchModified)
	for _, r := range rows {
		for i, c := range r {
			p.widths[i] = max(p.widths[i], utf8.RuneCountInString(plainCell(c)))
		}
	}
	for _, r := range rows {
		if err := p.line(r); err != nil {
			return err
		}
	}
	return nil
}

func (p *watchPrinter[T]) line(cells []string) error {
	var b strings.Builder
	for i, c := range cells {
		c = plainCell(c)
		b.WriteString(c)
		if i+1 < len(cells) {
			b.WriteString(strings.Repeat(" ", max(0, p.widths[i]-utf8.RuneCountInString(c))+2))
		}
	}
	b.WriteByte('\n')
	_, err := io.WriteString(p.a.Out, b.String())
	return err
}

// watchListeners tells load balancers' changes as those of their listeners.
func watchListeners(c *client.Client, ctx context.Context, o ...client.Option) client.Watch[listener] {
	return func(yield func(api.WatchEvent[listener], error) bool) {
		known := map[string]map[string]listener{} // by load balancer and id
		for e, err := range c.WatchLoadBalancers(ctx, o...) {
			out := api.WatchEvent[listener]{Type: e.Type, Revision: e.Revision, Error: e.Error}
			if err != nil || e.Item == nil {
				if !yield(out, err) {
					return
				}
				continue
			}
			had, now := known[e.Item.ID], map[string]listener{}
			if e.Type != api.WatchDeleted {
				for _, l := range listenersOf(e.Item) {
					now[l.ID] = l
				}
			}
			known[e.Item.ID] = now
			for _, change := range listenerChanges(had, now) {
				out.Type, out.Item = change.Type, change.Item
				if !yield(out, nil) {
					return
				}
			}
		}
	}
}

// listenerChanges compares the listeners of one load balancer; its revision is no change of theirs.
func listenerChanges(had, now map[string]listener) (out []api.WatchEvent[listener]) {
	for _, id := range slices.Sorted(maps.Keys(had)) {
		if _, there := now[id]; !there {
			l := had[id]
			out = append(out, api.WatchEvent[listener]{Type: api.WatchDeleted, Item: &l})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(now)) {
		l := now[id]
		was, there := had[id]
		was.Revision = l.Revision
		switch {
		case !there:
			out = append(out, api.WatchEvent[listener]{Type: api.WatchAdded, Item: &l})
		case was != l:
			out = append(out, api.WatchEvent[listener]{Type: api.WatchModified, Item: &l})
		}
	}
	return out
}
