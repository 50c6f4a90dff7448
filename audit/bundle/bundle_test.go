package bundle

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/audit/treelog"
	"github.com/culvert-net/culvert/audit/verify"
)

const origin = "mesh.example/log"

func keyOf(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func keysText() string {
	return treelog.VerifierKey(origin, keyOf(1).Public().(ed25519.PublicKey)) + "\n"
}

// evidence is a small copy: the log of a service that was made, asked for and accepted, and one segment of its consumer's node.
type evidence struct {
	t     *testing.T
	now   time.Time
	log   *treelog.Mem
	seq   uint64
	files fstest.MapFS
}

func (e *evidence) append(l leaf.Leaf) {
	e.t.Helper()
	if _, err := e.log.Append(e.t.Context(), l); err != nil {
		e.t.Fatal(err)
	}
}

// event tells that resources are now so.
func (e *evidence) event(actor, name, action string, changes ...api.AuditChange) {
	e.seq++
	e.append(leaf.OfEvent(e.now, api.AuditEvent{Seq: e.seq, At: e.now, Actor: actor, ActorName: name, Role: api.RoleAccount, Action: action,
		RequestID: fmt.Sprint("r", e.seq), Outcome: api.OutcomeSuccess, Changes: changes}))
}

func (e *evidence) change(kind api.Kind, id string, v any) api.AuditChange {
	e.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		e.t.Fatal(err)
	}
	return api.AuditChange{Kind: kind, ID: id, After: b}
}

var (
	ledger = api.Service{Meta: api.Meta{ID: "vpce-svc-1", Name: "ledger", Account: "444455556666"}, AllowedPrincipals: []string{"111122223333"}}
	asked  = api.Connection{Meta: api.Meta{ID: "vpce-con-1"}, Endpoint: "vpce-1", EndpointAccount: "111122223333", Service: "vpce-svc-1",
		State: api.PendingAcceptance}
	another = api.Connection{Meta: api.Meta{ID: "vpce-con-9"}, Service: "vpce-svc-9", State: api.Available, Approver: "key-9"}
)

func newEvidence(t *testing.T) *evidence {
	t.Helper()
	e := &evidence{t: t, now: time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC), files: fstest.MapFS{}}
	signer, err := treelog.NewSigner(origin, keyOf(1))
	if err != nil {
		t.Fatal(err)
	}
	e.log = treelog.NewMem(origin, func() time.Time { return e.now }, signer)
	e.append(leaf.Leaf{Type: leaf.TypeStart, Server: &leaf.Server{ID: "run", Version: "1"}})
	e.event("key-0", "root", "create-account", e.change(api.KindAccount, "444455556666", api.Account{Meta: api.Meta{ID: "444455556666", Name: "pay"}}))
	e.event("key-1", "ops", "create-service", e.change(api.KindService, ledger.ID, ledger))
	e.event("key-2", "shop", "create-endpoint", e.change(api.KindConnection, asked.ID, asked), e.change(api.KindConnection, another.ID, another))
	e.event("key-1", "ops", "create-security-group", e.change(api.KindSecurityGroup, "sg-1", api.SecurityGroup{Meta: api.Meta{ID: "sg-1"},
		Ingress: []api.Rule{{ID: "sgr-1"}}}), e.change(api.KindSecurityGroup, "sg-2", api.SecurityGroup{Meta: api.Meta{ID: "sg-2"}}))
	e.now = e.now.Add(20 * time.Second)
	accepted := asked
	accepted.State, accepted.Approver, accepted.DecidedAt = api.Available, "key-1", e.now
	e.event("key-1", "ops", "accept-connections", e.change(api.KindConnection, asked.ID, accepted))
	e.append(leaf.OfNodeKey(e.now, "node-a", keyOf(3).Public().(ed25519.PublicKey)))
	e.now = e.now.Add(10 * time.Second)
	e.segment()
	checkpoint, err := e.log.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e.append(leaf.Leaf{Type: leaf.TypeTick, Tick: &leaf.Tick{Server: "run", Number: 1, Checkpoint: string(checkpoint)}})
	return e
}

// segment has a flow to the service, a refusal, one of each of another service, and a consumer whose name would be a script.
func (e *evidence) segment() {
	e.t.Helper()
	flow := api.FlowRecord{Account: "111122223333", Interface: "eni-1", VPC: "vpc-1", Start: e.now, End: e.now, Action: api.ActionAccept, LogStatus: "OK",
		Reason: "FORWARDED", Stage: "host", Side: "consumer", Direction: "egress", Protocol: 6, Connection: "vpce-con-1", Service: "vpce-svc-1",
		ServiceName: "pay/ledger", Approver: "key-1", ConsumerAccount: "111122223333", Rule: "sgr-1", Packets: 5, Bytes: 500, ReplyPackets: 4,
		ReplyBytes: 4000, Tuple: api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 4000, DstAddr: "10.0.1.99", DstPort: 443}}
	refused := flow
	refused.Action, refused.Reason, refused.ReplyPackets, refused.Tuple.DstPort = api.ActionReject, "GROUP_INGRESS", 0, 22
	strange := flow
	strange.Tuple.SrcAddr = "<script>alert(1)</script>"
	other := flow
	other.Service, other.ServiceName = "vpce-svc-9", "pay/other"
	s := &seal.Seal{Version: seal.Version, Node: "node-a", Boot: "boot", Number: 1, First: 1, Start: e.now.Add(-time.Second), End: e.now}
	var lines [][]byte
	for i, r := range []api.FlowRecord{flow, refused, other, strange} {
		r.Node, r.Boot, r.Sequence = "node-a", "boot", uint64(i+1)
		b, err := json.Marshal(r)
		if err != nil {
			e.t.Fatal(err)
		}
		lines = append(lines, b)
	}
	question, err := json.Marshal(api.QueryLine{Query: api.QueryRecord{Node: "node-a", Boot: "boot", Sequence: uint64(len(lines) + 1), VPC: "vpc-1",
		Client: "10.0.1.5", Name: "ledger.pay.internal.", Addresses: []string{"10.0.1.99"}, TTLSeconds: 60, Start: e.now, End: e.now}})
	if err != nil {
		e.t.Fatal(err)
	}
	lines = append(lines, question)
	s.Last, s.Records, s.Hash = uint64(len(lines)), len(lines), seal.HashLines(lines...)
	if err := s.Sign(keyOf(3)); err != nil {
		e.t.Fatal(err)
	}
	line, err := s.Line()
	if err != nil {
		e.t.Fatal(err)
	}
	e.append(leaf.OfSeal(e.now, s, line))
	file := append(append(bytes.Join(lines, []byte("\n")), '\n'), line...)
	e.files["segments/node-a/boot/2026-03-10T12.ndjson"] = &fstest.MapFile{Data: file}
}

func (e *evidence) dir() fstest.MapFS {
	e.t.Helper()
	logged, err := e.log.Files(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	dir := maps.Clone(e.files)
	for path, b := range logged {
		dir["log/"+path] = &fstest.MapFile{Data: b}
	}
	return dir
}

type memory map[string]*bytes.Buffer

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func (m memory) create(name string) (io.WriteCloser, error) {
	m[name] = &bytes.Buffer{}
	return nopCloser{m[name]}, nil
}

func write(t *testing.T, dir fstest.MapFS, service string) (*Summary, memory) {
	t.Helper()
	files := memory{}
	s, err := Write(dir, Options{Service: service, From: time.Date(2026, 3, 10, 12, 0, 10, 0, time.UTC),
		To: time.Date(2026, 3, 11, 0, 0, 0, 0, time.UTC), Keys: keysText()}, files.create)
	if err != nil {
		t.Fatal(err)
	}
	return s, files
}

// TestABundleTellsAndVerifies: who talked, who approved, what was refused, what was in force; and it verifies with its files beside the copy's.
func TestABundleTellsAndVerifies(t *testing.T) {
	dir := newEvidence(t).dir()
	for _, service := range []string{"vpce-svc-1", "pay/ledger", "444455556666/ledger"} {
		s, files := write(t, dir, service)
		if !s.Verified.OK {
			t.Fatalf("the copy does not verify: %v", s.Verified.First())
		}
		if s.Service != "vpce-svc-1" || s.Name != "pay/ledger" || s.Records != 3 || len(s.Consumers) != 2 || len(s.Refused) != 1 {
			t.Errorf("%s: %+v", service, s)
		}
		if len(s.Approvals) != 1 || s.Approvals[0].Approver != "key-1" || s.Approvals[0].Name != "ops" || s.Approvals[0].Seq != 5 {
			t.Errorf("approvals %+v", s.Approvals)
		}
		var about []string
		for _, p := range s.Policies {
			about = append(about, fmt.Sprint(p.ID, " ", p.Before))
		}
		if !slices.Equal(about, []string{"vpce-svc-1 true", "vpce-con-1 true", "sg-1 true", "vpce-con-1 false"}) {
			t.Errorf("policies of %v", about)
		}
		for _, c := range s.Consumers {
			if want := map[string]string{"10.0.1.5": "ledger.pay.internal."}[c.Address]; c.Name != want {
				t.Errorf("%s asked for %q", c.Address, c.Name)
			}
		}
		page := files[SummaryName].String()
		for _, want := range []string{"pay/ledger", "ledger.pay.internal.", "10.0.1.5", "VERIFIED", "GROUP_INGRESS", "key-1 (ops)", "allows [111122223333]",
			"in force at the beginning"} {
			if !strings.Contains(page, want) {
				t.Errorf("the page lacks %q", want)
			}
		}
		for _, bad := range []string{"<script", "src=", "href=", "url("} {
			if strings.Contains(page, bad) {
				t.Errorf("the page has %q", bad)
			}
		}
		whole := maps.Clone(dir)
		for name, b := range files {
			whole[name] = &fstest.MapFile{Data: b.Bytes()}
		}
		keys, err := verify.ParseKeys(keysText())
		if err != nil {
			t.Fatal(err)
		}
		if r := verify.Run(whole, keys, verify.Options{}); !r.OK {
			t.Errorf("the bundle does not verify: %v", r.First())
		}
	}
}

// TestAServiceThatNobodyKnows is refused, and not told to have had no traffic; one that is made behind the bundle's time is known.
func TestAServiceThatNobodyKnows(t *testing.T) {
	e := newEvidence(t)
	until := e.now.Add(time.Second)
	e.now = until.Add(5 * time.Second)
	e.event("key-1", "ops", "create-service", e.change(api.KindService, "vpce-svc-2",
		api.Service{Meta: api.Meta{ID: "vpce-svc-2", Name: "young", Account: "444455556666"}}))
	checkpoint, err := e.log.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e.append(leaf.Leaf{Type: leaf.TypeTick, Tick: &leaf.Tick{Server: "run", Number: 2, Checkpoint: string(checkpoint)}})
	dir := e.dir()
	for _, service := range []string{"pay/ledgr", "444455556666/ledgr", "shop/ledger", "vpce-svc-7"} {
		_, err := Write(dir, Options{Service: service, To: until, Keys: keysText()}, memory{}.create)
		var refused *api.Error
		if !errors.As(err, &refused) || refused.Code != api.CodeServiceNotFound ||
			!strings.Contains(err.Error(), "/ledgr") && !strings.Contains(err.Error(), service) {
			t.Errorf("%s: %v", service, err)
		}
	}
	for _, service := range []string{"pay/young", "444455556666/young", "vpce-svc-2"} {
		s, err := Write(dir, Options{Service: service, To: until, Keys: keysText()}, memory{}.create)
		if err != nil || s.Records != 0 || !s.Verified.OK {
			t.Errorf("%s: %+v, %v", service, s, err)
		}
	}
}

// TestTheSameCopyGivesTheSameBundle, with sums that are those of the files.
func TestTheSameCopyGivesTheSameBundle(t *testing.T) {
	dir := newEvidence(t).dir()
	_, first := write(t, dir, "pay/ledger")
	_, second := write(t, dir, "pay/ledger")
	for name, b := range first {
		if !bytes.Equal(b.Bytes(), second[name].Bytes()) {
			t.Errorf("%s differs from run to run", name)
		}
		sum := sha256.Sum256(b.Bytes())
		if line := hex.EncodeToString(sum[:]) + "  " + name + "\n"; name != SumsName && !strings.Contains(first[SumsName].String(), line) {
			t.Errorf("%s does not have %s", SumsName, name)
		}
	}
	if len(first) != 8 {
		t.Errorf("%d files", len(first))
	}
}

// TestAnHourThatIsThereTwice, packed and plain, is an hour.
func TestAnHourThatIsThereTwice(t *testing.T) {
	dir := newEvidence(t).dir()
	const name = "segments/node-a/boot/2026-03-10T12.ndjson"
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(dir[name].Data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	packed := maps.Clone(dir)
	packed[name+".gz"] = &fstest.MapFile{Data: z.Bytes()}
	once, _ := write(t, dir, "pay/ledger")
	twice, files := write(t, packed, "pay/ledger")
	if twice.Records != once.Records || !slices.Equal(twice.Consumers, once.Consumers) || bytes.Count(files[RecordsName].Bytes(), []byte("\n")) != 3 {
		t.Errorf("%d records, once %d", twice.Records, once.Records)
	}
	delete(packed, name)
	if s, _ := write(t, packed, "pay/ledger"); s.Records != once.Records {
		t.Errorf("%d records of the packed hour alone", s.Records)
	}
}

// TestADamagedCopySaysSo: a byte of a record is another, and the page does not hide it.
func TestADamagedCopySaysSo(t *testing.T) {
	dir := newEvidence(t).dir()
	f := dir["segments/node-a/boot/2026-03-10T12.ndjson"]
	f.Data = bytes.Replace(f.Data, []byte(`"packets":5`), []byte(`"packets":6`), 1)
	s, files := write(t, dir, "pay/ledger")
	if s.Verified.OK || !strings.Contains(files[SummaryName].String(), "NOT VERIFIED") || !strings.Contains(files[TranscriptName].String(), "NOT VERIFIED") {
		t.Errorf("a changed record goes unnoticed")
	}
	if _, err := Write(dir, Options{Service: "pay/ledger", Keys: "no key"}, files.create); err == nil {
		t.Error("keys that are none are taken")
	}
}
