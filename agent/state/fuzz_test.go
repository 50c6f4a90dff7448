package state

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// Whatever is in a file, reading it returns; and what it takes it has written, or could have.
func FuzzReadFile(f *testing.F) {
	for _, v := range []any{Identity{Node: "node-1"}, []plan.Attachment{{ENI: "eni-1"}}, KeyUse{PublicKey: "k"}, api.SignedView{View: []byte("{}")}} {
		data, err := wrap(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var id Identity
		if unwrap(data, &id) == nil {
			_, _ = id.Certificate()
			_, _, _ = id.Validity()
		}
		var content json.RawMessage
		if unwrap(data, &content) != nil {
			return
		}
		again, err := wrap(content)
		if err != nil {
			t.Fatalf("taken, and cannot be written: %v", err)
		}
		var second json.RawMessage
		if err := unwrap(again, &second); err != nil {
			t.Fatalf("written again, and not taken: %v", err)
		}
		var a, b bytes.Buffer
		if json.Compact(&a, content) != nil || json.Compact(&b, second) != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Errorf("%s became %s", a.String(), b.String())
		}
	})
}

func FuzzOpenView(f *testing.F) {
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		f.Fatal(err)
	}
	id := &Identity{Node: "node-1", Mesh: 7, ViewKey: pub}
	good, err := SignView(priv, &api.View{Mesh: api.Mesh{Number: 7}, Node: api.ViewNode{ID: "node-1"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good.View, good.Signature, true)
	f.Add([]byte("{}"), []byte{}, true)
	f.Add([]byte("null"), []byte{1}, false)
	f.Fuzz(func(t *testing.T, view, signature []byte, sign bool) {
		if sign {
			signature = ed25519.Sign(priv, append([]byte(viewContext), view...))
		}
		v, err := OpenView(id, api.SignedView{View: view, Signature: signature})
		if err == nil && (v.Node.ID != "node-1" || v.Mesh.Number != 7 || !sign && !ed25519.Verify(pub, append([]byte(viewContext), view...), signature)) {
			t.Errorf("a view of %s in %d is taken", v.Node.ID, v.Mesh.Number)
		}
	})
}
