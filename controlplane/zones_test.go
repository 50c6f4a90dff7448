package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/controlplane/view"
)

// txt is a resolver for tests.
type txt struct {
	mu     sync.Mutex
	values map[string][]string
	err    error // in place of an answer
	asked  int
}

func (r *txt) lookup(_ context.Context, name string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.err != nil {
		return nil, r.err
	}
	if v := r.values[name]; v != nil {
		return v, nil
	}
	return nil, &net.DNSError{Name: name, IsNotFound: true}
}

func (r *txt) set(name string, err error, values ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	r.values = map[string][]string{name: values}
}

// looked tells that a domain was looked at since it was made due, and is not being looked at.
func (v *verifier) looked(id string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, looked := v.last[id]
	_, busy := v.looking[id]
	return looked && !busy
}

// A domain is an account's while its record is there; who lost it keeps what it has, and nobody new gets it.
func TestDomainsAreProved(t *testing.T) {
	records := &txt{}
	l := mesh(t, func(cfg *Config) { cfg.LookupTXT = records.lookup })
	pay, shop, ctx := l.as("pay"), l.as("shop"), l.ctx()
	no := false
	must(pay.ModifyService(ctx, "ledger", api.ModifyServiceRequest{AcceptanceRequired: &no}))(t)
	name := []string{"ledger.example.com"}
	named := func() error {
		_, err := pay.ModifyService(ctx, "ledger", api.ModifyServiceRequest{PrivateDNSNames: &name})
		return err
	}
	d := must(pay.CreateDomain(ctx, api.CreateDomainRequest{Domain: "example.com"}))(t)
	label, rest, _ := strings.Cut(d.VerificationName, ".")
	if d.State != api.DomainPending || rest != "example.com" || len(label) != 21 || label[0] != '_' ||
		!strings.HasPrefix(d.VerificationValue, "vpce:") || strings.Contains(d.VerificationValue, label[1:]) {
		t.Fatalf("%+v", d)
	}
	look := func(want api.DomainState, message string, misses uint32) {
		t.Helper()
		l.s.verifier.soon(d.ID)
		l.eventually("a look", func() bool { return l.s.verifier.looked(d.ID) }) // one that is under way may have seen what was before
		if got := must(pay.GetDomain(ctx, "example.com"))(t); got.State != want || !strings.Contains(got.Message, message) || got.Misses != misses {
			t.Fatalf("the domain is %s, %q, with %d misses, want %s, %q, %d", got.State, got.Message, got.Misses, want, message, misses)
		}
	}
	look(api.DomainPending, "no such TXT record", 0)
	wantCode(t, named(), api.CodeDomainNotOwned)
	records.set(d.VerificationName, nil, "vpce:somebodyelse")
	look(api.DomainPending, "another value", 0)
	records.set(d.VerificationName, nil, "v=spf1", d.VerificationValue)
	look(api.DomainVerified, "", 0)
	if err := named(); err != nil {
		t.Fatal(err)
	}
	_, err := l.admin().AddDomain(ctx, "shop", "www.example.com")
	wantCode(t, err, api.CodeConflictingDomain)
	made := must(shop.CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "first",
		PrivateDNSEnabled: true}))(t)
	_, err = pay.DeleteDomain(ctx, d.ID)
	wantCode(t, err, api.CodeDependencyViolation)

	records.set(d.VerificationName, errors.New("SERVFAIL"))
	for range 5 { // who keeps the resolver silent takes nothing away
		look(api.DomainVerified, "did not answer", 0)
	}
	records.set("", nil)
	look(api.DomainVerified, "no such TXT record", 1)
	look(api.DomainVerified, "no such TXT record", 2)
	look(api.DomainFailed, "no such TXT record", 3)
	if got := l.meant(name[0]); got != made.ID {
		t.Errorf("%s is answered by %q after the proof is gone, want %s", name[0], got, made.ID)
	}
	yes := true
	must(pay.ModifyService(ctx, "ledger", api.ModifyServiceRequest{AcceptanceRequired: &yes}))(t)
	_, err = shop.CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "second",
		PrivateDNSEnabled: true, PrivateDNSPriority: 200})
	wantCode(t, err, api.CodeDomainNotVerified)
	other := uint16(70)
	must(shop.ModifyEndpoint(ctx, made.ID, api.ModifyEndpointRequest{PrivateDNSPriority: &other}))(t)

	records.set(d.VerificationName, nil, d.VerificationValue)
	var looks sync.WaitGroup
	l.s.verifyDue(ctx, &looks)
	looks.Wait()
	if got := must(pay.GetDomain(ctx, d.ID))(t); got.State != api.DomainFailed {
		t.Errorf("a domain that failed is %s without being asked for", got.State)
	}
	must(pay.VerifyDomain(ctx, "example.com"))(t)
	look(api.DomainVerified, "", 0)
	l.check()
}

// Whoever asks for a look gets it as soon as the request is done, also for a domain that had failed. A dry run looks for nothing.
func TestDomainsAreLookedAtWhenAsked(t *testing.T) {
	records := &txt{}
	l := mesh(t, func(cfg *Config) { cfg.LookupTXT = records.lookup })
	pay, ctx := l.as("pay"), l.ctx()
	asked := func() int {
		records.mu.Lock()
		defer records.mu.Unlock()
		return records.asked
	}
	var took []time.Duration // one after the other: who waits for ticks waits for whole ones
	for i := range 3 {
		name := fmt.Sprintf("example%d.com", i)
		before, begun := asked(), time.Now()
		d := must(pay.CreateDomain(ctx, api.CreateDomainRequest{Domain: name}))(t)
		l.eventually("the first look", func() bool { return asked() > before })
		took = append(took, time.Since(begun))
		before = asked()
		must(pay.VerifyDomain(ctx, d.ID, client.WithDryRun()))(t)
		must(pay.ListDomains(ctx))(t)
		must(pay.VerifyDomain(ctx, d.ID))(t)
		l.eventually("another look", func() bool { return asked() > before })
		must(pay.ListDomains(ctx))(t)
		if n := asked() - before; n != 1 {
			t.Errorf("a dry run and a request looked %d times, want once", n)
		}
		_, err := l.s.store.Txn(ctx, func(tx *store.Tx) error {
			failed := *d
			failed.State = api.DomainFailed
			tx.Put(&failed)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		records.set(d.VerificationName, nil, d.VerificationValue)
		before, begun = asked(), time.Now()
		must(pay.VerifyDomain(ctx, d.ID))(t)
		l.eventually("verified", func() bool { return must(pay.GetDomain(ctx, d.ID))(t).State == api.DomainVerified })
		took = append(took, time.Since(begun))
		if n := asked() - before; n != 1 {
			t.Errorf("the record was looked for %d times, want once", n)
		}
	}
	slices.Sort(took)
	t.Logf("looked for after %v, n=%d", took, len(took))
	if took[len(took)/2] > verifyTick/2 {
		t.Errorf("looked for after %v: with the next tick", took)
	}
}

// How often a record is looked for, and when a domain that is never proved has failed.
func TestDomainsAreLookedAtInTime(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := api.NewResources()
	pending := &api.Domain{Meta: api.Meta{ID: "domain-1"}, State: api.DomainPending, Since: start}
	for _, d := range []*api.Domain{pending, {Meta: api.Meta{ID: "domain-2"}, State: api.DomainVerified},
		{Meta: api.Meta{ID: "domain-3"}, State: api.DomainFailed}} {
		r.Put(d)
	}
	v := newVerifier()
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 2}, {time.Second, 0}, {time.Minute, 1}, {time.Minute + time.Second, 0}, {time.Hour, 2}, {2*time.Hour - time.Second, 1}} {
		got := v.begin(r, start.Add(c.after))
		if len(got) != c.want {
			t.Errorf("after %s %d are due, want %d", c.after, len(got), c.want)
		}
		for _, d := range got {
			v.end(d.ID)
		}
	}
	missing := &net.DNSError{IsNotFound: true}
	if d := found(pending, nil, missing, start.Add(verifyPatience-1)); d.State != api.DomainPending {
		t.Errorf("%s before its time is over", d.State)
	}
	if d := found(pending, nil, missing, start.Add(verifyPatience)); d.State != api.DomainFailed {
		t.Errorf("%s when its time is over", d.State)
	}
	again := found(&api.Domain{State: api.DomainVerified, Misses: 2}, []string{""}, nil, start)
	if again.State != api.DomainVerified || again.Misses != 0 {
		t.Errorf("an answer with the record forgets misses: %+v", again)
	}
}

// Accounts take turns, and one whose resolvers are silent holds up nobody else.
func TestVerifierTakesTurns(t *testing.T) {
	r := api.NewResources()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	add := func(account string, n int) {
		r.Put(&api.Account{Meta: api.Meta{ID: account}})
		for i := range n {
			r.Put(&api.Domain{Meta: api.Meta{ID: fmt.Sprintf("domain-%s%02d", account, i), Account: account}, State: api.DomainPending})
		}
	}
	add("a", 20)
	v := newVerifier()
	begin := func(after time.Duration) (out []string) {
		for _, d := range v.begin(r, at.Add(after)) {
			out = append(out, strings.TrimPrefix(d.ID, "domain-"))
		}
		return out
	}
	expect := func(when string, got []string, want string) {
		t.Helper()
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %s, want %s", when, s, want)
		}
	}
	expect("alone", begin(0), "a00 a01")
	expect("silent", begin(verifyTick), "")
	add("b", 1)
	expect("another comes", begin(2*verifyTick), "b00")
	v.end("domain-a01")
	expect("a place is free", begin(2*verifyTick), "a02")
	for _, account := range []string{"c", "d", "e"} {
		add(account, 20)
	}
	v.soon("domain-c00")
	expect("all places", begin(2*verifyTick), "c00 d00 e00 c01 d01")
	add("f", 1)
	v.soon("domain-b00") // is being looked at, and will be once more
	expect("none is free", begin(3*verifyTick), "")
	v.end("domain-c00")
	expect("who never had one", begin(3*verifyTick), "f00")
	v.end("domain-b00")
	v.end("domain-a00")
	expect("who had it the longest ago", begin(3*verifyTick), "b00 a03")
}

// While looks for an account's records hang, another's are found.
func TestDomainsAreProvedBesideSilence(t *testing.T) {
	records := &txt{}
	var hang, ended atomic.Int32
	l := mesh(t, func(cfg *Config) {
		cfg.LookupTXT = func(ctx context.Context, name string) ([]string, error) {
			if !strings.HasSuffix(name, ".silent.example") {
				return records.lookup(ctx, name)
			}
			hang.Add(1)
			<-ctx.Done()
			ended.Add(1)
			return nil, ctx.Err()
		}
	})
	for i := range 2 * verifyConcurrent {
		must(l.as("shop").CreateDomain(l.ctx(), api.CreateDomainRequest{Domain: fmt.Sprintf("d%d.silent.example", i)}))(t)
	}
	l.s.verifier.soon("")
	l.eventually("silence", func() bool { return hang.Load() >= verifyPerAccount })
	d := must(l.as("pay").CreateDomain(l.ctx(), api.CreateDomainRequest{Domain: "example.com"}))(t)
	records.set(d.VerificationName, nil, d.VerificationValue)
	l.s.verifier.soon(d.ID)
	l.eventually("the proof", func() bool { return must(l.as("pay").GetDomain(l.ctx(), d.ID))(t).State == api.DomainVerified })
	if hang.Load() != verifyPerAccount || ended.Load() != 0 {
		t.Errorf("%d looks at the silent ones, %d of them over", hang.Load(), ended.Load())
	}
}

// What an administrator gave to another account nobody proves, whichever came first; nor is given what others' services have
// names in.
func TestDomainsOfAnotherAccount(t *testing.T) {
	records := &txt{}
	l := mesh(t, func(cfg *Config) { cfg.LookupTXT = records.lookup })
	pay, admin, ctx := l.as("pay"), l.admin(), l.ctx()
	_, err := pay.CreateDomain(ctx, api.CreateDomainRequest{Domain: "www.shop.internal"})
	wantCode(t, err, api.CodeConflictingDomain)
	d := must(pay.CreateDomain(ctx, api.CreateDomainRequest{Domain: "example.com"}))(t)
	look := func(want api.DomainState, message string) {
		t.Helper()
		l.s.verifier.soon(d.ID)
		l.eventually(fmt.Sprintf("%s %q", want, message), func() bool {
			got := must(pay.GetDomain(ctx, d.ID))(t)
			return got.State == want && strings.Contains(got.Message, message)
		})
	}
	must(admin.AddDomain(ctx, "shop", "www.example.com"))(t) // nobody has proved anything yet
	records.set(d.VerificationName, nil, d.VerificationValue)
	look(api.DomainFailed, "another account")
	_, err = pay.VerifyDomain(ctx, d.ID)
	wantCode(t, err, api.CodeConflictingDomain)
	must(admin.RemoveDomain(ctx, "shop", "www.example.com"))(t)
	must(pay.VerifyDomain(ctx, d.ID))(t)
	look(api.DomainVerified, "")

	names := []string{"ledger.www.example.com"}
	must(pay.ModifyService(ctx, "ledger", api.ModifyServiceRequest{PrivateDNSNames: &names}))(t)
	records.set("", nil)
	for i := range verifyMisses {
		l.s.verifier.soon(d.ID)
		l.eventually("a miss", func() bool { return must(pay.GetDomain(ctx, d.ID))(t).Misses == uint32(i+1) })
	}
	look(api.DomainFailed, "")
	_, err = admin.AddDomain(ctx, "shop", "www.example.com")
	if e := wantCode(t, err, api.CodeConflictingDomain); !strings.Contains(e.Message, names[0]) {
		t.Errorf("the conflict does not tell the name: %v", e)
	}
	must(admin.AddDomain(ctx, "shop", "api.example.com"))(t)
	none := []string{}
	must(pay.ModifyService(ctx, "ledger", api.ModifyServiceRequest{PrivateDNSNames: &none}))(t)
	must(admin.AddDomain(ctx, "shop", "www.example.com"))(t)
	l.check()
}

// Without a resolver to ask nobody proves a domain.
func TestDomainsThatCannotBeProved(t *testing.T) {
	l := mesh(t, nil)
	_, err := l.as("pay").CreateDomain(l.ctx(), api.CreateDomainRequest{Domain: "example.com"})
	wantCode(t, err, api.CodeIncorrectState)
}

// Records of a hosted zone reach the nodes of the VPCs that it is associated with, and no others.
func TestHostedZones(t *testing.T) {
	l := mesh(t, nil)
	shop, ctx := l.as("shop"), l.ctx()
	seen := func() map[string][]string { // by domain: sets
		r := l.s.Resources()
		out := map[string][]string{}
		for _, z := range view.Compute(r, find1(r.ENIs, "cart").Node).HostedZones {
			out[z.Domain] = []string{}
			for _, s := range z.RecordSets {
				out[z.Domain] = append(out[z.Domain], fmt.Sprintf("%s %s %d %v", s.Name, s.Type, s.TTLSeconds, s.Values))
			}
		}
		return out
	}
	z := must(shop.CreateHostedZone(ctx, api.CreateHostedZoneRequest{Domain: "corp.internal"}))(t)
	if len(z.VPCs) != 0 || len(seen()) != 0 {
		t.Errorf("%+v, seen %v", z, seen())
	}
	must(shop.AssociateHostedZone(ctx, "corp.internal", []string{"shop"}))(t)
	ttl := uint32(60)
	put := func(sets ...api.RecordSetRequest) error {
		_, err := shop.ChangeRecords(ctx, z.ID, api.ChangeRecordsRequest{Put: sets})
		return err
	}
	if err := put(api.RecordSetRequest{Name: "www.corp.internal", Type: "A", Values: []string{"10.0.1.9"}},
		api.RecordSetRequest{Name: "@", Type: "MX", TTLSeconds: &ttl, Values: []string{"10 mail.corp.internal"}}); err != nil {
		t.Fatal(err)
	}
	want := []string{"corp.internal MX 60 [10 mail.corp.internal]", "www.corp.internal A 300 [10.0.1.9]"}
	if got := seen()["corp.internal"]; !slices.Equal(got, want) {
		t.Errorf("the node sees %v, want %v", got, want)
	}
	// One call replaces an address by an alias: at no revision the name is without.
	must(shop.ChangeRecords(ctx, z.ID, api.ChangeRecordsRequest{Remove: []api.RecordName{{Name: "www.corp.internal", Type: "A"}},
		Put: []api.RecordSetRequest{{Name: "www.corp.internal", Type: "CNAME", Values: []string{"web.corp.internal"}}}}))(t)
	if got := seen()["corp.internal"]; len(got) != 2 || got[1] != "www.corp.internal CNAME 300 [web.corp.internal]" {
		t.Errorf("the node sees %v", got)
	}
	second := must(shop.CreateHostedZone(ctx, api.CreateHostedZoneRequest{Domain: "corp.internal"}))(t)
	_, err := shop.AssociateHostedZone(ctx, second.ID, []string{"shop"})
	if e := wantCode(t, err, api.CodeConflictingDomain); !strings.Contains(e.Message, z.ID) {
		t.Errorf("the conflict does not name the other zone: %v", e)
	}
	_, err = shop.GetHostedZone(ctx, "corp.internal")
	wantCode(t, err, api.CodeAmbiguousName)
	must(shop.DisassociateHostedZone(ctx, z.ID, []string{"shop"}))(t)
	must(shop.AssociateHostedZone(ctx, second.ID, []string{"shop"}))(t)
	if got := seen(); len(got) != 1 || len(got["corp.internal"]) != 0 {
		t.Errorf("the node sees %v, want the second zone alone", got)
	}
	must(shop.DeleteHostedZone(ctx, second.ID))(t)
	if got := seen(); len(got) != 0 {
		t.Errorf("the node sees %v of a zone that is gone", got)
	}
	l.check()
}

// Between a hosted zone and an endpoint no number decides: the second is refused.
func TestHostedZonesBesideEndpoints(t *testing.T) {
	l := mesh(t, nil)
	shop, ctx := l.as("shop"), l.ctx()
	z := must(shop.CreateHostedZone(ctx, api.CreateHostedZoneRequest{Domain: "ledger.pay.internal", VPCs: []string{"shop"}}))(t)
	request := api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger", PrivateDNSEnabled: true}
	_, err := shop.CreateEndpoint(ctx, request)
	if e := wantCode(t, err, api.CodeConflictingDomain); !strings.Contains(e.Message, z.ID) {
		t.Errorf("%v", e)
	}
	must(shop.DisassociateHostedZone(ctx, z.ID, []string{"shop"}))(t)
	made := must(shop.CreateEndpoint(ctx, request))(t)
	_, err = shop.AssociateHostedZone(ctx, z.ID, []string{"shop"})
	if e := wantCode(t, err, api.CodeConflictingDomain); !strings.Contains(e.Message, made.ID) || !strings.Contains(e.Message, "pay/ledger") {
		t.Errorf("%v", e)
	}
	must(shop.CreateHostedZone(ctx, api.CreateHostedZoneRequest{Domain: "pay.internal", VPCs: []string{"shop"}}))(t)
}

// An account's records are bounded, and a node takes of each account its share.
func TestHostedZonesAreBounded(t *testing.T) {
	l := mesh(t, nil)
	shop, ctx := l.as("shop"), l.ctx()
	text := strings.Repeat("a", 3000)
	var err error
	zones := 0
	for ; err == nil && zones < 10; zones++ {
		z := must(shop.CreateHostedZone(ctx, api.CreateHostedZoneRequest{Domain: fmt.Sprintf("z%d.internal", zones), VPCs: []string{"shop"}}))(t)
		var sets []api.RecordSetRequest
		for i := range 80 {
			sets = append(sets, api.RecordSetRequest{Name: fmt.Sprintf("n%d.%s", i, z.Name), Type: "TXT", Values: []string{text}})
		}
		_, err = shop.ChangeRecords(ctx, z.ID, api.ChangeRecordsRequest{Put: sets})
	}
	if e := wantCode(t, err, api.CodeLimitExceeded); zones != 5 || e.Field != "put" && e.Field != "recordSets" {
		t.Errorf("%d zones of 245 KiB, then %v", zones, e)
	}
	r := *l.s.Resources()
	r.CloneKind(api.KindHostedZone)
	node := find1(r.ENIs, "cart").Node
	seen := func() (bytes int, kept, left map[string]int) { // zones by account
		kept, left = map[string]int{}, map[string]int{}
		for _, z := range view.Compute(&r, node).HostedZones {
			for i := range z.RecordSets {
				bytes += z.RecordSets[i].Size()
			}
			if z.LeftOut != "" {
				left[z.Account]++
			} else {
				kept[z.Account]++
			}
		}
		return bytes, kept, left
	}
	neighbours := func(n, zones int) {
		for i := range zones * n {
			z := *find1(r.HostedZones, "z0.internal")
			z.ID, z.Account, z.CreatedAt = fmt.Sprintf("hz-%017d", i), fmt.Sprintf("%012d", i%n), z.CreatedAt.Add(time.Duration(i)*time.Second)
			z.Name, z.RecordSets = fmt.Sprintf("of%d.internal", i), slices.Clone(z.RecordSets)
			for j := range z.RecordSets {
				z.RecordSets[j].Name = "n." + z.Name
			}
			r.Put(&z)
		}
	}
	neighbours(12, 1) // shop has more than an even share, of which the others leave a good deal
	if _, kept, left := seen(); len(kept) != 13 || len(left) != 0 {
		t.Errorf("a node has room for all, but %v are left out, %v kept", left, kept)
	}
	neighbours(12, 4)
	bytes, kept, left := seen()
	if bytes > api.MaxHostedZoneBytesPerNode || bytes < api.MaxHostedZoneBytesPerNode*3/4 || len(kept) != 13 || len(left) != 13 {
		t.Errorf("%d bytes, %v zones kept, %v left out; want an even share of each account", bytes, kept, left)
	}
}

// badDNS are requests about domains, hosted zones, resolver rules and the query firewall that are refused. The shop has the zone bad.internal.
func badDNS(l *lab) []bad {
	have := find1(l.s.Resources().HostedZones, "bad.internal")
	if have == nil {
		have = must(l.as("shop").CreateHostedZone(l.ctx(), api.CreateHostedZoneRequest{Domain: "bad.internal", VPCs: []string{"shop"}}))(l.t)
	}
	z := have.ID
	put := func(set string) string { return `{"put":[` + set + `]}` }
	none := "hz-00000000000000000"
	list := []bad{
		{"create-domain", "pay", nil, `{"domainName":"example.com"}`, api.CodeIncorrectState, "domainName"},
		{"get-domain", "pay", args("domain-00000000000000000"), "", api.CodeDomainNotFound, "id"},
		{"verify-domain", "pay", args("example.com"), "", api.CodeDomainNotFound, "id"},
		{"delete-domain", "pay", args("example.com"), "", api.CodeDomainNotFound, "id"},
		{"create-hosted-zone", "shop", nil, `{"domainName":"Corp.internal"}`, api.CodeInvalidParameter, "domainName"},
		{"create-hosted-zone", "shop", nil, `{"domainName":"*.internal"}`, api.CodeInvalidParameter, "domainName"},
		{"create-hosted-zone", "shop", nil, `{"domainName":"10.in-addr.arpa"}`, api.CodeInvalidParameter, "domainName"},
		{"create-hosted-zone", "shop", nil, `{"domainName":"culvert.internal"}`, api.CodeInvalidParameter, "domainName"},
		{"create-hosted-zone", "shop", nil, `{"domainName":"new.internal","vpcIds":["pay"]}`, api.CodeVPCNotFound, "vpcIds"},
		{"create-hosted-zone", "shop", nil, `{"domainName":"bad.internal","vpcIds":["shop"]}`, api.CodeConflictingDomain, "vpcIds"},
		{"get-hosted-zone", "pay", args(z), "", api.CodeHostedZoneNotFound, "id"},
		{"delete-hosted-zone", "pay", args(none), "", api.CodeHostedZoneNotFound, "id"},
		{"associate-hosted-zone", "shop", args(z), `{"vpcIds":[]}`, api.CodeMissingParameter, "vpcIds"},
		{"associate-hosted-zone", "shop", args(z), `{"vpcIds":["nothing"]}`, api.CodeVPCNotFound, "vpcIds"},
		{"disassociate-hosted-zone", "shop", args(z), `{"vpcIds":["nothing"]}`, api.CodeVPCNotFound, "vpcIds"},
		{"change-records", "shop", args(z), `{}`, api.CodeMissingParameter, "put"},
		{"change-records", "shop", args(z), `{"put":` + many(101, `{"name":"a.bad.internal","type":"A","values":["10.0.0.1"]}`) + `}`,
			api.CodeLimitExceeded, "put"},
		{"change-records", "shop", args(z), `{"remove":[{"name":"@","type":"A"}]}`, api.CodeRecordNotFound, "remove"},
	}
	for _, r := range []struct {
		set   string
		code  api.ErrorCode
		field string
	}{
		{`{"name":"www.good.internal","type":"A","values":["10.0.0.1"]}`, api.CodeInvalidParameter, "recordSets"},
		{`{"name":"w w.bad.internal","type":"A","values":["10.0.0.1"]}`, api.CodeInvalidParameter, "recordSets"},
		{`{"name":"@","type":"NS","values":["10.0.0.1"]}`, api.CodeInvalidParameter, "type"},
		{`{"name":"@","type":"CNAME","values":["x.internal"]}`, api.CodeInvalidParameter, "type"},
		{`{"name":"@","type":"A","values":[]}`, api.CodeMissingParameter, "values"},
		{`{"name":"@","type":"A","values":["10.0.0.1","10.0.0.1"]}`, api.CodeInvalidParameter, "values"},
		{`{"name":"@","type":"A","values":["2001:db8::1"]}`, api.CodeInvalidParameter, "values"},
		{`{"name":"a.bad.internal","type":"CNAME","values":["x.internal","y.internal"]}`, api.CodeLimitExceeded, "values"},
		{`{"name":"@","type":"TXT","values":["a\u0007"]}`, api.CodeInvalidParameter, "values"},
		{`{"name":"@","type":"A","ttlSeconds":2147483648,"values":["10.0.0.1"]}`, api.CodeInvalidParameter, "ttlSeconds"},
		{`{"name":"@","type":"A","values":["10.0.0.1"]},{"name":"bad.internal","type":"A","values":["10.0.0.2"]}`, api.CodeInvalidParameter, "put"},
		{`{"name":"a.bad.internal","type":"A","values":["10.0.0.1"]},{"name":"a.bad.internal","type":"CNAME","values":["x.y"]}`,
			api.CodeInvalidCombination, "type"},
	} {
		list = append(list, bad{"change-records", "shop", args(z), put(r.set), r.code, r.field})
	}
	return slices.Concat(list, badRules(l), badFirewalls(l))
}
