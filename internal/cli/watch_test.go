package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

// TestEveryListHasWatch: whatever is a list of the API goes on with -w.
func TestEveryListHasWatch(t *testing.T) {
	n := 0
	each(newTree(), func(c *cobra.Command) {
		switch c.CommandPath() {
		case "culvert service catalogue", "culvert service connections":
		case "culvert retention list", "culvert legal-hold list": // settings of the server, which nobody but an administrator changes
			return
		default:
			if c.Name() != "list" {
				return
			}
		}
		n++
		if f := c.Flags().Lookup("watch"); f == nil || f.Shorthand != "w" {
			t.Errorf("%s: no --watch", c.CommandPath())
		}
	})
	if n != 23 {
		t.Errorf("%d lists found", n)
	}
}

// watching runs a command until the test ends and hands out its lines.
type watching struct {
	t      *testing.T
	lines  *bufio.Scanner
	stop   context.CancelFunc
	status chan int
}

func startWatching(t *testing.T, args ...string) *watching {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	r, w := io.Pipe()
	x := &watching{t: t, lines: bufio.NewScanner(r), stop: cancel, status: make(chan int, 1)}
	go func() {
		x.status <- Main(ctx, args, Streams{In: strings.NewReader(""), Out: w, Err: w})
		w.Close()
	}()
	t.Cleanup(func() {
		cancel()
		r.Close()
	})
	return x
}

// want reads one line, in which every run of blanks counts as one.
func (x *watching) want(pattern string) string {
	x.t.Helper()
	if !x.lines.Scan() {
		x.t.Fatalf("it ended before %s", pattern)
	}
	line := strings.Join(strings.Fields(x.lines.Text()), " ")
	if !regexp.MustCompile("^" + pattern + "$").MatchString(line) {
		x.t.Fatalf("got %q, want %s", line, pattern)
	}
	return x.lines.Text()
}

func (x *watching) end() {
	x.t.Helper()
	x.stop()
	for x.lines.Scan() { // what it still has to say
	}
	if status := <-x.status; status != 0 {
		x.t.Errorf("an interrupted watch ends with status %d", status)
	}
}

func TestWatchIsShown(t *testing.T) {
	s := newSession(t)
	ctx, c := context.Background(), s.admin
	shop := client.WithAccount("shop")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.CreateAccount(ctx, api.CreateAccountRequest{Name: "shop"})
	check(err)
	make1 := func(name string) {
		t.Helper()
		_, err := c.CreateVPC(ctx, api.CreateVPCRequest{Name: name, CIDR: netip.MustParsePrefix("10.0.0.0/16")}, shop)
		check(err)
	}
	make1("first")
	table := startWatching(t, "vpc", "list", "-w")
	lines := startWatching(t, "vpc", "list", "--watch", "-o", "json")
	quiet := startWatching(t, "vpc", "list", "-w", "-q")
	head := table.want("CHANGE ID NAME ACCOUNT CIDR FORWARDERS")
	if row := table.want(`- vpc-\w+ first \d+ 10.0.0.0/16 -`); strings.Index(row, "vpc-") != strings.Index(head, "ID") {
		t.Errorf("columns are not aligned:\n%s\n%s", head, row)
	}
	lines.want(`\{"type":"Added".*"name":"first".*`)
	lines.want(`\{"type":"Synced","revision":\d+\}`)
	quiet.want(`vpc-\w+`)
	make1("second")
	if row := table.want(`Added vpc-\w+ second \d+ 10.0.0.0/16 -`); strings.Index(row, "vpc-") != strings.Index(head, "ID") {
		t.Errorf("columns move:\n%s\n%s", head, row)
	}
	var e api.WatchEvent[api.VPC]
	check(json.Unmarshal([]byte(lines.want(`\{"type":"Added".*`)), &e))
	lines.want(`\{"type":"Bookmark","revision":\d+\}`)
	quiet.want(e.Item.ID)
	_, err = c.DeleteVPC(ctx, "second", shop)
	check(err)
	table.want("Deleted " + e.Item.ID + " second .*")
	lines.want(`\{"type":"Deleted".*` + e.Item.ID + `.*`)
	for _, x := range []*watching{table, lines, quiet} {
		x.end()
	}
	out, problems, status := s.call([]string{"service", "connections", "-w"})
	if status == 0 || out != "" || !strings.Contains(problems, "Name one service") {
		t.Errorf("status %d: %s%s", status, out, problems)
	}
}

func TestListenerChanges(t *testing.T) {
	l := func(id string, port uint16, revision int64) listener {
		return listener{Listener: api.Listener{ID: id, Port: port}, Revision: revision}
	}
	had := map[string]listener{"a": l("a", 1, 1), "b": l("b", 2, 1), "c": l("c", 3, 1)}
	now := map[string]listener{"b": l("b", 2, 2), "c": l("c", 4, 2), "d": l("d", 5, 2)}
	var got []string
	for _, e := range listenerChanges(had, now) {
		got = append(got, string(e.Type)+" "+e.Item.ID)
	}
	if want := "Deleted a, Modified c, Added d"; strings.Join(got, ", ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// TestAuditWatchIsShown: the log that is there, and each event that is written then, also of a call that was refused.
func TestAuditWatchIsShown(t *testing.T) {
	s := newSession(t)
	ctx, c := context.Background(), s.admin
	if _, err := c.CreateAccount(ctx, api.CreateAccountRequest{Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	table := startWatching(t, "audit", "list", "--account", "shop", "-w")
	table.want("CHANGE TIME ACTOR ACTION RESOURCE OUTCOME FROM")
	table.want(`- .* an administrator create-account \d+ success .*`)
	table.want(`- .* list-audit - success .*`) // that somebody reads it
	shop := client.WithAccount("shop")
	vpc := api.CreateVPCRequest{Name: "first", CIDR: netip.MustParsePrefix("10.0.0.0/16")}
	if _, err := c.CreateVPC(ctx, vpc, shop); err != nil {
		t.Fatal(err)
	}
	table.want(`Added .* create-vpc vpc-\w+ success .*`)
	_, err := c.CreateVPC(ctx, vpc, shop)
	var refused *api.Error
	if !errors.As(err, &refused) {
		t.Fatalf("a name was given twice: %v", err)
	}
	table.want(`Added .* create-vpc \S+ ` + regexp.QuoteMeta(string(refused.Code)) + ` .*`)
	table.end()
}
