package state

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-net/culvert/api"
)

// viewContext is what a view's signature covers in front of its bytes, so that no other signed thing can pass for a view.
const viewContext = "culvert view v1\n"

// ErrOlderView is returned for a view of a lower revision than the one held: a replay, or a server restored from a backup.
var ErrOlderView = errors.New("view is older than the one held")

// SignView makes a signed view; the control plane's half of OpenView.
func SignView(key ed25519.PrivateKey, v *api.View) (api.SignedView, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return api.SignedView{}, fmt.Errorf("sign view: %w", err)
	}
	return api.SignedView{View: data, Signature: ed25519.Sign(key, append([]byte(viewContext), data...))}, nil
}

// OpenView checks the signature and that the view is for this node.
func OpenView(id *Identity, s api.SignedView) (*api.View, error) {
	if !ed25519.Verify(id.ViewKey, append([]byte(viewContext), s.View...), s.Signature) {
		return nil, errors.New("view: the signature is not the control plane's")
	}
	var v api.View
	if err := json.Unmarshal(s.View, &v); err != nil {
		return nil, fmt.Errorf("view: %w", err)
	}
	if v.Node.ID != id.Node {
		return nil, fmt.Errorf("view: it is for node %s, this is %s", v.Node.ID, id.Node)
	}
	if v.Mesh.Number != id.Mesh {
		return nil, fmt.Errorf("view: it is of mesh %06x, this node is in %06x", v.Mesh.Number, id.Mesh)
	}
	return &v, nil
}

// Newer returns ErrOlderView when next must not replace held. Equal revisions pass: they refresh the age.
func Newer(held, next *api.View) error {
	if held != nil && next.Revision < held.Revision {
		return fmt.Errorf("%w: %d < %d", ErrOlderView, next.Revision, held.Revision)
	}
	return nil
}

// LoadView reads and checks the last good view; nil when there is none.
func (d Dir) LoadView(id *Identity) (*api.View, error) {
	var s api.SignedView
	found, err := d.readJSON(viewFile, &s)
	if err != nil || !found {
		return nil, err
	}
	v, err := OpenView(id, s)
	if err != nil {
		return nil, d.unusable(viewFile, err)
	}
	return v, nil
}

// SaveView keeps a view that was opened and applied.
func (d Dir) SaveView(s api.SignedView) error { return d.writeJSON(viewFile, s) }

// Expires is when a view stops being good.
func Expires(v *api.View) time.Time {
	return v.IssuedAt.Add(time.Duration(v.MaxAgeSeconds) * time.Second)
}
