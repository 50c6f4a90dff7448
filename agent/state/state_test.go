package state_test

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

func keys(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pub, priv
}

func view(rev int64) *api.View {
	return &api.View{Revision: rev, Mesh: api.Mesh{Number: 7}, Node: api.ViewNode{ID: "node-1"}}
}

func TestOpenViewRefusesWhatIsNotMeantForThisNode(t *testing.T) {
	pub, priv := keys(t)
	_, other := keys(t)
	id := &state.Identity{Node: "node-1", Mesh: 7, ViewKey: pub}
	good, err := state.SignView(priv, view(3))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := state.OpenView(id, good); err != nil || v.Revision != 3 {
		t.Fatalf("good view: %v, %v", v, err)
	}
	foreign, _ := state.SignView(other, view(3))
	wrongNode := view(3)
	wrongNode.Node.ID = "node-2"
	forNode2, _ := state.SignView(priv, wrongNode)
	wrongMesh := view(3)
	wrongMesh.Mesh.Number = 8
	ofMesh8, _ := state.SignView(priv, wrongMesh)
	changed := api.SignedView{View: append([]byte{}, good.View...), Signature: good.Signature}
	changed.View[len(changed.View)-2] ^= 1
	for name, s := range map[string]api.SignedView{
		"foreign signature": foreign, "other node": forNode2, "other mesh": ofMesh8, "changed byte": changed,
		"empty": {},
	} {
		if _, err := state.OpenView(id, s); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNewer(t *testing.T) {
	if err := state.Newer(nil, view(1)); err != nil {
		t.Error(err)
	}
	if err := state.Newer(view(5), view(5)); err != nil {
		t.Error(err)
	}
	if err := state.Newer(view(5), view(4)); !errors.Is(err, state.ErrOlderView) {
		t.Errorf("lower revision: %v", err)
	}
}

func TestFilesAreReplacedAsAWholeAndPrivate(t *testing.T) {
	dir := state.Dir(filepath.Join(t.TempDir(), "data"))
	if err := dir.Make(); err != nil {
		t.Fatal(err)
	}
	want := []plan.Attachment{{ENI: "eni-1", Netns: "/run/netns/a"}, {ENI: "eni-2", Netns: "/run/netns/b"}}
	if err := dir.SaveAttachments([]plan.Attachment{want[1], want[0]}); err != nil {
		t.Fatal(err)
	}
	got, err := dir.LoadAttachments()
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Fatalf("got %v, %v", got, err)
	}
	entries, err := os.ReadDir(string(dir))
	if err != nil || len(entries) != 2 { // the file and its copy
		t.Fatalf("temporary files left: %v, %v", entries, err)
	}
	info, err := entries[0].Info()
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(dir.Path("attachments.json"), []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.LoadAttachments(); err == nil {
		t.Error("a truncated file was accepted")
	}
}

func TestViewSurvivesOnDiskAndIsCheckedAgain(t *testing.T) {
	pub, priv := keys(t)
	id := &state.Identity{Node: "node-1", Mesh: 7, ViewKey: pub}
	dir := state.Dir(t.TempDir())
	if v, err := dir.LoadView(id); v != nil || err != nil {
		t.Fatalf("no file: %v, %v", v, err)
	}
	s, _ := state.SignView(priv, view(9))
	if err := dir.SaveView(s); err != nil {
		t.Fatal(err)
	}
	if v, err := dir.LoadView(id); err != nil || v.Revision != 9 {
		t.Fatalf("%v, %v", v, err)
	}
	otherPub, _ := keys(t)
	if _, err := dir.LoadView(&state.Identity{Node: "node-1", Mesh: 7, ViewKey: otherPub}); err == nil {
		t.Error("a view signed by somebody else was loaded from disk")
	}
}
