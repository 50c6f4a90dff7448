package controlplane

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
)

// How often records that prove domains are looked for, and for how long.
const (
	verifyTick       = 5 * time.Second  // between looks at what is due
	verifyPending    = time.Minute      // between looks at one that is not proved yet
	verifyVerified   = time.Hour        // and at one that is
	verifyPatience   = 72 * time.Hour   // after which one that was never proved has failed (AWS's figure)
	verifyMisses     = 3                // answers without the record, after which one that was proved has failed
	verifyTimeout    = 10 * time.Second // of one look
	verifyConcurrent = 8                // looks at a time
	verifyPerAccount = 2                // of those: an account's resolvers that are silent hold up nobody else's proof
)

// verifier knows when each domain was looked at last, which ones are due, and which are being looked at.
type verifier struct {
	mu      sync.Mutex
	last    map[string]time.Time
	waiting map[string][]string // by account: domains that are due, who waits for longest first
	listed  time.Time           // when that was found out; zero: it is to be found out anew
	looking map[string]string   // by domain: its account
	turns   uint64              // looks so far
	turn    map[string]uint64   // by account: the look that it had last
	wake    chan struct{}
}

func newVerifier() *verifier {
	return &verifier{last: map[string]time.Time{}, looking: map[string]string{}, turn: map[string]uint64{}, wake: make(chan struct{}, 1)}
}

// soon makes a domain due.
func (v *verifier) soon(id string) {
	v.mu.Lock()
	delete(v.last, id)
	v.listed = time.Time{}
	v.mu.Unlock()
	v.again()
}

// again has verify see what there is to do.
func (v *verifier) again() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// begin are the domains to look at now; from then on they count as looked at, and each has a place until end. Accounts take turns.
func (v *verifier) begin(r *api.Resources, now time.Time) (out []*api.Domain) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now.Sub(v.listed) >= verifyTick {
		v.list(r, now)
	}
	for len(v.looking) < verifyConcurrent {
		account, ok := v.next()
		if !ok {
			break
		}
		id := v.waiting[account][0]
		if v.waiting[account] = v.waiting[account][1:]; len(v.waiting[account]) == 0 {
			delete(v.waiting, account)
		}
		d := r.Domains[id]
		if d == nil || verifyEvery(d) == 0 {
			continue
		}
		v.turns++
		v.looking[id], v.turn[account], v.last[id] = account, v.turns, now
		out = append(out, d)
	}
	return out
}

// verifyEvery is how long after a look a domain is due again; 0: it is not looked at.
func verifyEvery(d *api.Domain) time.Duration {
	switch d.State {
	case api.DomainPending:
		return verifyPending
	case api.DomainVerified:
		return verifyVerified
	}
	return 0
}

// list finds the domains that are due and not being looked at, and forgets what is gone.
func (v *verifier) list(r *api.Resources, now time.Time) {
	v.listed, v.waiting = now, map[string][]string{}
	maps.DeleteFunc(v.last, func(id string, _ time.Time) bool { return r.Domains[id] == nil })
	maps.DeleteFunc(v.turn, func(account string, _ uint64) bool { return r.Accounts[account] == nil })
	for id, d := range r.Domains {
		every := verifyEvery(d)
		last, looked := v.last[id]
		if _, busy := v.looking[id]; every != 0 && !busy && (!looked || now.Sub(last) >= every) {
			v.waiting[d.Account] = append(v.waiting[d.Account], id)
		}
	}
	for _, ids := range v.waiting {
		slices.SortFunc(ids, func(a, b string) int { return cmp.Or(v.last[a].Compare(v.last[b]), cmp.Compare(a, b)) })
	}
}

// next is the account that has its turn: of those that wait and may have one more place the one whose last look began first.
func (v *verifier) next() (account string, ok bool) {
	places := map[string]int{}
	for _, a := range v.looking {
		places[a]++
	}
	for a := range v.waiting {
		if places[a] < verifyPerAccount && (!ok || cmp.Or(cmp.Compare(v.turn[a], v.turn[account]), cmp.Compare(a, account)) < 0) {
			account, ok = a, true
		}
	}
	return account, ok
}

// end gives a domain's place to the next one.
func (v *verifier) end(id string) {
	v.mu.Lock()
	delete(v.looking, id)
	if _, looked := v.last[id]; !looked { // it was made due meanwhile
		v.listed = time.Time{}
	}
	v.mu.Unlock()
	v.again()
}

// verify looks for records until ctx ends.
func (s *Server) verify(ctx context.Context) {
	tick := time.NewTicker(verifyTick)
	defer tick.Stop()
	var looks sync.WaitGroup
	defer looks.Wait()
	for {
		s.verifyDue(ctx, &looks)
		select {
		case <-tick.C:
		case <-s.verifier.wake:
		case <-ctx.Done():
			return
		}
	}
}

// verifyDue begins to look for the records of domains that are due, as many as there is room for.
func (s *Server) verifyDue(ctx context.Context, looks *sync.WaitGroup) {
	for _, d := range s.verifier.begin(s.store.Snapshot(), s.cfg.Now()) {
		looks.Go(func() {
			defer s.verifier.end(d.ID)
			s.due(ctx, "verify domain "+d.Name, func(ctx context.Context) error { return s.verifyOne(ctx, d) })
		})
	}
}

func (s *Server) verifyOne(ctx context.Context, d *api.Domain) error {
	looking, cancel := context.WithTimeout(ctx, verifyTimeout)
	values, err := s.cfg.LookupTXT(looking, d.VerificationName)
	cancel()
	if ctx.Err() != nil {
		return nil
	}
	_, err = s.store.Txn(ctx, func(tx *store.Tx) error {
		c := s.newCall(ctx, tx.Resources())
		c.tx = tx
		old := c.r.Domains[d.ID]
		if old == nil || old.VerificationValue != d.VerificationValue {
			return nil
		}
		n := found(old, values, err, c.now)
		if n.State == api.DomainVerified && refuseGiven(c.r, &n, "") != nil {
			n.State, n.Since, n.Misses, n.Message = api.DomainFailed, c.now, 0, "it, or a part of it, was given to another account"
		}
		if n.State == old.State && n.Misses == old.Misses && n.Message == old.Message {
			return nil
		}
		if n.State != old.State {
			c.bySystem("domain-"+strings.ToLower(string(n.State)), n.Account, n.ID)
		}
		return put(c, &n, nil, nil)
	})
	return err
}

// found is what becomes of a domain when its record was looked for. Silence is no answer: it changes the message only.
func found(old *api.Domain, values []string, err error, now time.Time) api.Domain {
	d := *old
	var missing *net.DNSError
	switch {
	case err == nil && slices.Contains(values, d.VerificationValue):
		d.Misses, d.Message = 0, ""
		if d.State != api.DomainVerified {
			d.State, d.Since = api.DomainVerified, now
		}
		return d
	case err == nil:
		d.Misses, d.Message = d.Misses+1, "the TXT record has another value"
	case errors.As(err, &missing) && missing.IsNotFound:
		d.Misses, d.Message = d.Misses+1, "there is no such TXT record"
	default:
		d.Message = "the resolver did not answer"
	}
	switch {
	case d.State == api.DomainVerified && d.Misses >= verifyMisses, d.State == api.DomainPending && now.Sub(d.Since) >= verifyPatience:
		d.State, d.Since = api.DomainFailed, now
	case d.State == api.DomainPending:
		d.Misses = 0 // what was never there is not missed; so a look that finds nothing new writes nothing
	}
	return d
}

// LookupTXTAt makes a function that asks one resolver for TXT records, and no other: tls://ADDRESS[:853], ADDRESS[:53], or by TCP
// alone tcp://ADDRESS[:53].
func LookupTXTAt(server string) (func(ctx context.Context, name string) ([]string, error), error) {
	if e := api.ValidateForwarder(server, true); e != nil {
		return nil, fmt.Errorf("%s; write ADDRESS[:53], tcp://ADDRESS[:53] or tls://ADDRESS[:853]", e.Message)
	}
	rest, secure := strings.CutPrefix(server, "tls://")
	rest, stream := strings.CutPrefix(rest, "tcp://")
	port := uint16(53)
	if secure {
		port = dnsOverTLS
	}
	to, err := netip.ParseAddrPort(rest)
	if err != nil {
		address, err := netip.ParseAddr(rest)
		if err != nil {
			return nil, fmt.Errorf("%q is no address of a resolver", rest)
		}
		to = netip.AddrPortFrom(address, port)
	}
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		if secure {
			d := tls.Dialer{Config: &tls.Config{ServerName: to.Addr().String(), MinVersion: tls.VersionTLS12}}
			return d.DialContext(ctx, "tcp", to.String())
		}
		if stream {
			network = "tcp"
		}
		return new(net.Dialer).DialContext(ctx, network, to.String())
	}}
	return func(ctx context.Context, name string) ([]string, error) { return resolver.LookupTXT(ctx, name+".") }, nil
}
