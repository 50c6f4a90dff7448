package cli

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
)

// sealed has a node send a record of refused packets to pay/ledger that ended some time ago, sealed now.
func (s *session) sealed(name string, key byte, service string, ago time.Duration) {
	s.t.Helper()
	id := s.nodes[name]
	node := s.node(id)
	defer node.Close()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{key}, ed25519.SeedSize))
	if _, err := node.PutLogKey(s.t.Context(), api.LogKeyRequest{PublicKey: private.Public().(ed25519.PublicKey)}); err != nil {
		s.t.Fatal(err)
	}
	now := time.Now().UTC()
	r := api.FlowRecord{Node: id.Node, Boot: "boot", Sequence: 1, Account: "000000000001", Interface: "eni-1", Start: now.Add(-ago - time.Second),
		End: now.Add(-ago), Action: api.ActionReject, Reason: "GROUP_INGRESS", LogStatus: "OK", Stage: "workload", Direction: "egress", Protocol: 6,
		Service: service, ServiceName: "pay/ledger", Packets: 3, Bytes: 180}
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&r); err != nil {
		s.t.Fatal(err)
	}
	text := bytes.TrimSuffix(line.Bytes(), []byte("\n"))
	end := seal.Seal{Version: seal.Version, Node: id.Node, Boot: "boot", Number: 1, First: 1, Last: 1, Records: 1, Start: now, End: now,
		Hash: seal.HashLines(text), Full: true, Counters: []seal.Position{{ENI: "eni-1", Hook: "workload", Reason: "GROUP_INGRESS",
			To: seal.Count{Packets: 3, Bytes: 180}}}}
	if err := end.Sign(private); err != nil {
		s.t.Fatal(err)
	}
	sealLine, err := end.Line()
	if err != nil {
		s.t.Fatal(err)
	}
	got, err := node.SendFlows(s.t.Context(), []api.FlowEnvelope{{Boot: "boot", Seq: 1, End: r.End, Record: text},
		{Kind: api.KindOfSeal, Boot: "boot", Seq: 1, End: end.End, Record: bytes.TrimSuffix(sealLine, []byte("\n"))}})
	if err != nil || got.Segments != 1 {
		s.t.Fatalf("a sealed record: %+v, %v", got, err)
	}
}

// TestEvidenceOfNodes: a bundle from the server has what nodes sealed long after it ended, and says what is missing where the directory of
// a node is gone, though nothing in it may have been about the service. So does a copy for an account.
func TestEvidenceOfNodes(t *testing.T) {
	s := newSession(t)
	for _, line := range []string{"account create pay", "vpc create main --account pay --cidr 10.0.0.0/16",
		"subnet create main --vpc main --account pay --cidr 10.0.1.0/24 --zone a", "load-balancer create ledger --subnet main --account pay",
		"service create ledger --load-balancer ledger --account pay", "service describe ledger --account pay -o json", "log-key"} {
		status, out, errOut := once(t, strings.Fields(line)...)
		if status != 0 {
			t.Fatalf("%s: %s", line, errOut)
		}
		switch {
		case line == "log-key":
			s.vars["KEYS"] = writeTemp(t, out)
		case strings.HasPrefix(line, "service describe"):
			var got api.Service
			if err := json.Unmarshal([]byte(out), &got); err != nil {
				t.Fatal(err)
			}
			s.vars["SERVICE"] = got.ID
		}
	}
	s.join("one")
	s.join("two")
	s.sealed("one", 7, s.vars["SERVICE"], 3*time.Hour)
	s.sealed("two", 8, "vpce-svc-0123456789abcdef0", time.Minute)
	bundle := func(name string) (int, string) {
		status, out, errOut := once(t, "evidence", "--service", "pay/ledger", "--from", "5h", "--to", "2h", "--keys", s.vars["KEYS"],
			"--out", filepath.Join(s.dir, name))
		return status, out + errOut
	}
	if status, out := bundle("whole"); status != 0 || !strings.Contains(out, "1 records of pay/ledger") {
		t.Fatalf("status %d: %s", status, out)
	}
	text := readFile(t, filepath.Join(s.dir, "whole", "records.ndjson"))
	if strings.Count(text, "\n") != 1 || !strings.Contains(text, s.nodes["one"].Node) {
		t.Errorf("records of the bundle: %q", text)
	}
	if err := os.RemoveAll(filepath.Join(s.dir, "server", "evidence", "segments", s.nodes["two"].Node)); err != nil {
		t.Fatal(err)
	}
	if status, out := bundle("short"); status == 0 || !strings.Contains(out, "does not verify") || !strings.Contains(out, s.nodes["two"].Node) {
		t.Errorf("of a node all is gone: status %d, %s", status, out)
	}
	if status, out, errOut := once(t, "flows", "export", "--account", "pay", "--since", "5h", "--out", filepath.Join(s.dir, "copy")); status != 0 {
		t.Fatalf("status %d: %s%s", status, out, errOut)
	}
	if status, out, errOut := once(t, "flows", "verify", filepath.Join(s.dir, "copy"), "--keys", s.vars["KEYS"]); status != 1 ||
		!strings.Contains(out+errOut, s.nodes["two"].Node) {
		t.Errorf("of a node all is gone, in an account's copy: status %d, %s%s", status, out, errOut)
	}
}
