package controlplane

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/randomly"
)

// recorder keeps the picture after every commit, which is what a watch is compared with.
type recorder struct {
	store.Store
	mu  *sync.Mutex
	all map[int64]*api.Resources
}

func (r *recorder) Txn(ctx context.Context, f func(*store.Tx) error) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rev, err := r.Store.Txn(ctx, f)
	if err == nil {
		r.all[rev] = r.Store.Snapshot()
	}
	return rev, err
}

// at is the picture at a revision, which may be one that changed no resource.
func (r *recorder) at(revision int64) *api.Resources {
	r.mu.Lock()
	defer r.mu.Unlock()
	var best int64
	for rev := range r.all {
		if rev <= revision && rev > best {
			best = rev
		}
	}
	return r.all[best]
}

// revisions are those that were recorded, in order.
func (r *recorder) revisions() []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.all))
}

// replay is what one who watches knows.
type replay[T any] struct {
	name     string
	account  string // id; "": all
	of       func(*api.Resources, func(api.Resource))
	known    map[string]string
	revision int64 // of the newest Synced or Bookmark
	synced   bool
}

// list is what the list would be at a revision.
func (p *replay[T]) list(r *api.Resources) map[string]string {
	out := map[string]string{}
	p.of(r, func(res api.Resource) {
		if m := res.GetMeta(); p.account == "" || m.Account == p.account {
			out[m.ID] = asJSON(res)
		}
	})
	return out
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// take applies an event, and says what is wrong with it.
func (p *replay[T]) take(r *recorder, e api.WatchEvent[T]) error {
	switch e.Type {
	case api.WatchSynced, api.WatchBookmark:
		if e.Type == api.WatchSynced && p.synced || e.Revision < p.revision {
			return fmt.Errorf("%s: %s at %d after %d", p.name, e.Type, e.Revision, p.revision)
		}
		p.synced, p.revision = p.synced || e.Type == api.WatchSynced, e.Revision
		if want := p.list(r.at(e.Revision)); !maps.Equal(p.known, want) {
			return fmt.Errorf("%s: at revision %d it knows\n%v\nbut the list is\n%v", p.name, e.Revision, p.known, want)
		}
		return nil
	}
	id := api.ItemID(e.Item)
	_, had := p.known[id]
	switch {
	case e.Revision < p.revision, had != (e.Type != api.WatchAdded):
		return fmt.Errorf("%s: %s of %s at %d, known %v at %d", p.name, e.Type, id, e.Revision, had, p.revision)
	case e.Type == api.WatchDeleted:
		delete(p.known, id)
	case p.known[id] == asJSON(e.Item):
		return fmt.Errorf("%s: %s of %s tells nothing", p.name, e.Type, id)
	default:
		p.known[id] = asJSON(e.Item)
	}
	return nil
}

// follow watches until stop is closed and the revision last is reached, across restarts of the server.
func follow[T any](t *testing.T, r *recorder, p *replay[T], w client.Watch[T], last func() (int64, bool)) error {
	for e, err := range w {
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := p.take(r, e); err != nil {
			return err
		}
		if rev, known := last(); known && p.revision >= rev {
			return nil
		}
	}
	return nil
}

// churn makes and removes things in an account.
func churn(ctx context.Context, c *client.Client, random *rand.Rand, n int) error {
	for range n {
		name := fmt.Sprintf("g%d", random.IntN(8))
		var err error
		switch random.IntN(4) {
		case 0:
			_, err = c.CreateSecurityGroup(ctx, api.CreateSecurityGroupRequest{VPC: "base", Name: name})
		case 1:
			_, err = c.DeleteSecurityGroup(ctx, name)
		case 2:
			_, err = c.AuthorizeIngress(ctx, name, []api.RuleRequest{{Protocol: api.TCP, FromPort: uint16(1 + random.IntN(60000)), ToPort: 65535,
				CIDR: prefix("10.0.0.0/8")}})
		case 3:
			_, err = c.CreateVPC(ctx, api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")})
		}
		var refused *api.Error
		if err != nil && !errors.As(err, &refused) {
			return err
		}
	}
	return nil
}

func groupsOf(r *api.Resources, f func(api.Resource)) {
	for _, g := range r.SecurityGroups {
		f(g)
	}
}

func vpcsOf(r *api.Resources, f func(api.Resource)) {
	for _, v := range r.VPCs {
		f(v)
	}
}

// TestWatchEqualsList: whoever watches, from the beginning or from any revision, under writes and restarts of the server, knows after
// each Synced and Bookmark what the list was at that revision: the caller's own things and no others.
func TestWatchEqualsList(t *testing.T) {
	for name, open := range map[string]func(dir string) store.Store{
		"mem": func(string) store.Store { return nil },
		"etcd": func(dir string) store.Store {
			return store.NewEtcd(store.EtcdConfig{Dir: dir, NoSync: true, Log: slog.New(slog.DiscardHandler)})
		},
	} {
		t.Run(name, func(t *testing.T) { watchEqualsList(t, open) })
	}
}

func watchEqualsList(t *testing.T, open func(dir string) store.Store) {
	random := rand.New(rand.NewPCG(randomly.Seed(t), 1))
	dir, sockets := t.TempDir(), must(os.MkdirTemp("", "culvert"))(t)
	t.Cleanup(func() { os.RemoveAll(sockets) })
	mem := store.NewMem()
	rec := &recorder{mu: new(sync.Mutex), all: map[int64]*api.Resources{}}
	config := func(c *Config) {
		if rec.Store = open(dir); rec.Store == nil {
			rec.Store = mem
		}
		c.DataDir, c.Store, c.Listen = dir, rec, []string{"unix:" + filepath.Join(sockets, "s.sock")}
	}
	l := startLab(t, config)
	accounts := []string{"shop", "pay"}
	for _, a := range accounts {
		must(l.as(a).CreateVPC(l.ctx(), api.CreateVPCRequest{Name: "base", CIDR: prefix("10.0.0.0/16")}))(t)
	}
	var last struct {
		sync.Mutex
		revision int64
		known    bool
	}
	ending := func() (int64, bool) {
		last.Lock()
		defer last.Unlock()
		return last.revision, last.known
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	errs := make(chan error, 100)
	var wg sync.WaitGroup
	watchAll := func(who, account string, c *client.Client, o ...client.Option) {
		g := &replay[api.SecurityGroup]{name: who + " groups", account: account, of: groupsOf, known: map[string]string{}}
		v := &replay[api.VPC]{name: who + " VPCs", account: account, of: vpcsOf, known: map[string]string{}}
		wg.Go(func() { errs <- follow(t, rec, g, c.WatchSecurityGroups(ctx, o...), ending) })
		wg.Go(func() { errs <- follow(t, rec, v, c.WatchVPCs(ctx, o...), ending) })
	}
	watchAll("admin", "", l.admin())
	for _, a := range accounts {
		watchAll(a, l.account(a), l.as(a))
	}
	const phases = 3
	for phase := range phases {
		var writers sync.WaitGroup
		for _, a := range accounts {
			c, mine := l.as(a), rand.New(rand.NewPCG(random.Uint64(), 2))
			writers.Go(func() {
				if err := churn(l.ctx(), c, mine, 60); err != nil {
					t.Error(err)
				}
			})
		}
		writers.Wait()
		resumeAnywhere(t, l, rec, random)
		if phase+1 < phases {
			l.stop()
			again := startLab(t, config)
			again.adminKey, again.keys = l.adminKey, l.keys
			l = again
		}
	}
	end := must(l.as("pay").CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}))(t)
	must(l.as("shop").CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}))(t)
	must(l.as("shop").CreateSecurityGroup(l.ctx(), api.CreateSecurityGroupRequest{VPC: "base", Name: "end"}))(t)
	must(l.as("pay").CreateSecurityGroup(l.ctx(), api.CreateSecurityGroupRequest{VPC: "base", Name: "end"}))(t)
	last.Lock()
	last.revision, last.known = end.Revision, true
	last.Unlock()
	// One more of each, so that everybody is told something after the end is known.
	for _, a := range accounts {
		must(l.as(a).CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}))(t)
		must(l.as(a).CreateSecurityGroup(l.ctx(), api.CreateSecurityGroupRequest{VPC: "base", Name: "over"}))(t)
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
}

// resumeAnywhere begins a watch at random revisions; what it tells brings the list of then to that of now.
func resumeAnywhere(t *testing.T, l *lab, rec *recorder, random *rand.Rand) {
	t.Helper()
	all := rec.revisions()
	resumed := 0
	for i := range 12 {
		since := all[random.IntN(len(all))]
		if i == 0 {
			since = all[len(all)-1]
		}
		p := &replay[api.SecurityGroup]{name: "resumed", account: l.account("shop"), of: groupsOf, revision: since, synced: true}
		p.known = p.list(rec.at(since))
		err := follow(t, rec, p, l.as("shop").WatchSecurityGroups(l.ctx(), client.WithSinceRevision(since)), func() (int64, bool) {
			return l.s.Resources().Revision, true
		})
		switch {
		case err == nil:
			resumed++
		case errors.Is(err, &api.Error{Code: api.CodeRevisionExpired}) && since < all[len(all)-1]:
		default:
			t.Errorf("since %d: %v", since, err)
		}
	}
	if resumed == 0 {
		t.Error("no watch could be resumed, not even from the newest revision")
	}
}

// events reads a raw watch up to its Synced or Bookmark.
func (r *raw) events(path, key string) (items []json.RawMessage, types map[api.WatchEventType]int) {
	r.l.t.Helper()
	ctx, cancel := context.WithCancel(r.l.ctx())
	defer cancel()
	req := must(http.NewRequestWithContext(ctx, "GET", "https://"+client.ServerName+path, nil))(r.l.t)
	req.Header.Set("Authorization", "Bearer "+key)
	resp := must(r.http.Do(req))(r.l.t)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != ndjson {
		r.l.t.Fatalf("%s: status %d, %s", path, resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	types = map[api.WatchEventType]int{}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Type api.WatchEventType `json:"type"`
			Item json.RawMessage    `json:"item"`
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			r.l.t.Fatalf("%s: %q: %v", path, lines.Text(), err)
		}
		types[e.Type]++
		if e.Type == api.WatchSynced || e.Type == api.WatchBookmark {
			return items, types
		}
		items = append(items, e.Item)
	}
	r.l.t.Fatalf("%s: ended: %v", path, lines.Err())
	return nil, nil
}

// TestEveryListCanBeWatched: a watch begins with what the list is, for an administrator and for an account; the document says so.
func TestEveryListCanBeWatched(t *testing.T) {
	l := mesh(t, func(c *Config) { c.LookupTXT = new(txt).lookup })
	must(l.as("shop").CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(l.as("pay").CreateDomain(l.ctx(), api.CreateDomainRequest{Domain: "example.com"}))(t)
	must(l.as("pay").CreateHostedZone(l.ctx(), api.CreateHostedZoneRequest{Domain: "corp.internal"}))(t)
	must(l.as("pay").CreateResolverRule(l.ctx(), api.CreateResolverRuleRequest{Domain: "example.com", Forwarders: []string{"tls://9.9.9.9"}}))(t)
	must(l.as("pay").CreateFirewallDomainList(l.ctx(), api.CreateFirewallDomainListRequest{Name: "listed"}))(t)
	must(l.as("pay").CreateFirewallRuleGroup(l.ctx(), api.CreateFirewallRuleGroupRequest{Name: "walled"}))(t)
	must(l.as("pay").CreateFlowLog(l.ctx(), api.CreateFlowLogRequest{Name: "all", ResourceType: api.FlowLogAccount}))(t)
	must(l.as("pay").CreateQueryLog(l.ctx(), api.CreateQueryLogRequest{Name: "heard"}))(t)
	must(l.admin().CreateToken(l.ctx(), api.CreateTokenRequest{}))(t)
	service := find1(l.s.Resources().Services, "ledger").ID
	raw := l.rawClient(nil)
	watched := 0
	for path, item := range l.s.huma.OpenAPI().Paths {
		o := item.Get
		if o == nil || !strings.HasPrefix(o.OperationID, "list-") {
			continue
		}
		watched++
		var named []string
		for _, p := range o.Parameters {
			named = append(named, p.Name)
		}
		if !slices.Contains(named, "watch") || !slices.Contains(named, "sinceRevision") || o.Responses["200"].Content[ndjson] == nil {
			t.Errorf("%s: the document does not say that it can be watched: %v", o.OperationID, named)
			continue
		}
		path := strings.ReplaceAll(path, "{id}", service)
		for _, key := range []string{l.adminKey, l.keys["pay"]} {
			answer := raw.do("GET", path, key, "")
			var list struct{ Items []json.RawMessage }
			if answer.status == http.StatusForbidden && o.OperationID == "list-tokens" {
				continue
			}
			if err := json.Unmarshal(answer.body, &list); err != nil || answer.status != http.StatusOK {
				t.Fatalf("%s: status %d: %s", path, answer.status, answer.body)
			}
			if answer.header.Get(client.HeaderRevision) == "" {
				t.Errorf("%s: no %s", path, client.HeaderRevision)
			}
			items, types := raw.events(path+"?watch=true", key)
			if slices.Contains([]string{"list-api-keys", "list-nodes", "list-flow-logs"}, o.OperationID) { // when they were used, heard and delivered differs
				if len(items) != len(list.Items) {
					t.Errorf("%s: %d items, the list has %d", path, len(items), len(list.Items))
				}
			} else if !slices.EqualFunc(items, list.Items, func(a, b json.RawMessage) bool { return string(a) == string(b) }) {
				t.Errorf("%s: watched %s, listed %s", path, items, list.Items)
			}
			if key == l.adminKey && len(items) == 0 || types[api.WatchSynced] != 1 || types[api.WatchAdded] != len(items) {
				t.Errorf("%s: %v", path, types)
			}
		}
	}
	if watched != 23 {
		t.Errorf("%d lists were watched", watched)
	}
}

// TestWatchEnds: with the key, with what the list is about, and at once for what cannot be.
func TestWatchEnds(t *testing.T) {
	l := mesh(t, nil)
	ended := func(w client.Watch[api.Connection], do func()) error {
		for e, err := range w {
			if err != nil {
				return err
			}
			if e.Type == api.WatchSynced {
				do()
			}
		}
		return errors.New("without an error")
	}
	pay := l.as("pay")
	other := must(l.admin().CreateAPIKey(l.ctx(), api.CreateAPIKeyRequest{Account: "pay"}))(t)
	err := ended(l.client(other.Secret, "").WatchConnections(l.ctx(), "ledger"), func() {
		must(l.admin().DeleteAPIKey(l.ctx(), other.ID))(t)
	})
	wantCode(t, err, api.CodeAuthFailure)
	err = ended(pay.WatchConnections(l.ctx(), "ledger"), func() { must(pay.DeleteService(l.ctx(), "ledger"))(t) })
	wantCode(t, err, api.CodeServiceNotFound)
	err = ended(l.as("shop").WatchConnections(l.ctx(), "ledger"), nil)
	wantCode(t, err, api.CodeServiceNotFound)

	newest := l.s.Resources().Revision
	for query, want := range map[string]api.ErrorCode{
		fmt.Sprintf("?watch=true&sinceRevision=%d", newest+1000): api.CodeRevisionExpired,
		fmt.Sprintf("?sinceRevision=%d", newest):                 api.CodeInvalidCombination,
		"?watch=true&sinceRevision=-1":                           api.CodeInvalidParameter,
		"?watch=yes":                                             api.CodeInvalidParameter,
		"?watch=true&vpc=none":                                   api.CodeVPCNotFound,
	} {
		path := "/v1/subnets" + query
		if e := l.rawClient(nil).do("GET", path, l.keys["shop"], "").refusal(t); e.Code != want || e.Field == "" || e.Remedy == "" {
			t.Errorf("%s: %+v", path, e)
		}
	}
	if n := l.s.watches.all; n != 0 {
		t.Errorf("%d watches are still counted", n)
	}
}

// TestWatchTellsWhatNodesReport: what is no part of a revision comes too, and again to who resumes.
func TestWatchTellsWhatNodesReport(t *testing.T) {
	l := startLab(t, nil)
	h := l.host("host-a")
	ctx := l.ctx()
	reported, revision := false, int64(0)
	for e, err := range l.admin().WatchNodes(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == api.WatchSynced {
			revision = e.Revision
			if err := h.ReportStatus(ctx, api.NodeStatus{Node: h.id, Revision: 7, Errors: []string{"a problem"}}); err != nil {
				t.Fatal(err)
			}
		}
		if reported = e.Type == api.WatchModified && e.Item.Status != nil && e.Item.Status.Revision == 7; reported {
			break
		}
	}
	for e, err := range l.admin().WatchNodes(ctx, client.WithSinceRevision(revision)) {
		if err != nil || e.Item == nil || e.Item.Status == nil || e.Item.Status.Revision != 7 {
			t.Fatalf("%+v, %v", e, err)
		}
		break
	}
	if !reported {
		t.Error("the report was not told")
	}
}

// TestWatchesAreBounded: one key has so many, and who leaves makes room.
func TestWatchesAreBounded(t *testing.T) {
	l := startLab(t, nil)
	shop := l.as("shop")
	ctx, leave := context.WithCancel(l.ctx())
	defer leave()
	open := make(chan struct{}, api.MaxWatchesPerKey)
	for range api.MaxWatchesPerKey {
		go func() {
			for range shop.WatchVPCs(ctx) {
				open <- struct{}{}
			}
		}()
	}
	for range api.MaxWatchesPerKey {
		<-open
	}
	refused := func() (err error) {
		for _, err = range shop.WatchVPCs(l.ctx()) {
			return err
		}
		return nil
	}
	wantCode(t, refused(), api.CodeLimitExceeded)
	for e, err := range l.as("pay").WatchVPCs(l.ctx()) { // others have theirs
		if err != nil || e.Type != api.WatchSynced {
			t.Errorf("%+v, %v", e, err)
		}
		break
	}
	leave()
	for deadline := time.Now().Add(10 * time.Second); refused() != nil; {
		if time.Now().After(deadline) {
			t.Fatal("places are not given back")
		}
	}
}

// asked counts the pictures of earlier revisions that are asked for.
type asked struct {
	store.Store
	n atomic.Int32
}

func (a *asked) At(revision int64) (*api.Resources, error) {
	a.n.Add(1)
	return a.Store.At(revision)
}

// TestNoPlaceNoPicture: who has no place among the watches costs the store nothing; one that is refused later gives its place back.
func TestNoPlaceNoPicture(t *testing.T) {
	a := &asked{Store: store.NewMem()}
	l := startLab(t, func(c *Config) { c.Store = a })
	shop := l.as("shop")
	vpc := must(shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}))(t)
	who := &caller{key: &api.APIKey{Meta: api.Meta{ID: "key-full"}}}
	open := func(since int64) (*watch[api.VPC], error) {
		w := &watch[api.VPC]{s: l.s, who: who, known: map[string]api.VPC{}, look: func(r *api.Resources) (*api.List[api.VPC], error) {
			return &api.List[api.VPC]{Revision: r.Revision}, nil
		}}
		return w, w.begin(since)
	}
	for range 2 * api.MaxWatchesPerKey {
		_, err := open(vpc.Revision + 1000)
		wantCode(t, err, api.CodeRevisionExpired)
	}
	for range api.MaxWatchesPerKey {
		w, err := open(vpc.Revision)
		if err != nil {
			t.Fatal(err)
		}
		defer w.end()
	}
	before := a.n.Load()
	_, err := open(vpc.Revision)
	wantCode(t, err, api.CodeLimitExceeded)
	if n := a.n.Load() - before; n != 0 {
		t.Errorf("%d pictures were made for one who is refused", n)
	}
}

// TestDeadPeersAreNoticed: a connection that is accepted ends when its peer does not answer for a while, not after a quarter of an hour.
func TestDeadPeersAreNoticed(t *testing.T) {
	l := must(listenTCP("127.0.0.1:0"))(t)
	defer l.Close()
	there := must(net.Dial("tcp", l.Addr().String()))(t)
	defer there.Close()
	c := must(l.Accept())(t)
	defer c.Close()
	raw := must(c.(*net.TCPConn).SyscallConn())(t)
	if err := raw.Control(func(fd uintptr) {
		for option, want := range map[[2]int]int{
			{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT}: int(peerPatience.Milliseconds()),
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE}:      1,
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}:     int(peerPatience.Seconds() / 3),
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}:    int(peerPatience.Seconds() / 3),
		} {
			if have, err := unix.GetsockoptInt(int(fd), option[0], option[1]); err != nil || have != want {
				t.Errorf("option %v is %d, want %d (%v)", option, have, want, err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// TestSlowReaderIsDropped: who stops reading loses its watch; nobody else notices.
func TestSlowReaderIsDropped(t *testing.T) {
	l := startLab(t, func(c *Config) { c.watchPatience, c.watchPause = 500*time.Millisecond, time.Millisecond })
	shop, ctx := l.as("shop"), l.ctx()
	must(shop.CreateVPC(ctx, api.CreateVPCRequest{Name: "shop", CIDR: prefix("10.0.0.0/16")}))(t)
	req := must(http.NewRequestWithContext(ctx, "GET", "https://"+client.ServerName+"/v1/security-groups?watch=true", nil))(t)
	req.Header.Set("Authorization", "Bearer "+l.keys["shop"])
	resp := must(l.rawClient(nil).http.Do(req))(t) // its body is not read
	defer resp.Body.Close()
	watching := func() int {
		l.s.watches.mu.Lock()
		defer l.s.watches.mu.Unlock()
		return l.s.watches.all
	}
	seen := make(chan int64, 10_000)
	go func() {
		for e := range l.as("shop").WatchSecurityGroups(ctx) {
			seen <- e.Revision
		}
	}()
	for deadline := time.Now().Add(20 * time.Second); watching() != 2; {
		if time.Now().After(deadline) {
			t.Fatalf("%d watches are open", watching())
		}
	}
	var newest int64
	for i := 0; watching() == 2; i++ {
		if i == 60 {
			t.Fatal("a megabyte was written and the slow reader is still there")
		}
		rules := make([]api.RuleRequest, 50)
		for j := range rules {
			rules[j] = api.RuleRequest{Protocol: api.TCP, FromPort: uint16(1 + j), ToPort: 65535, CIDR: prefix("10.0.0.0/8"),
				Description: strings.Repeat("x", 200)}
		}
		g := must(shop.AuthorizeIngress(ctx, "default", rules))(t)
		newest = g.Revision
		for _, r := range g.Ingress {
			g := must(shop.RevokeRule(ctx, "default", r.ID))(t)
			newest = g.Revision
		}
	}
	for {
		select {
		case rev := <-seen:
			if rev >= newest {
				return
			}
		case <-ctx.Done():
			t.Fatal("the other one misses something")
		}
	}
}
