package agent

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
)

// keyTeller sends lines of the flow log to the control plane, which checks their seals with a key that it has to know before: lines that came
// without it are no evidence. One goroutine uses it.
type keyTeller struct {
	key  func() (ed25519.PrivateKey, error)
	node func() *state.Identity
	told bool
}

func (k *keyTeller) send(ctx context.Context, to ControlPlane, lines []api.FlowEnvelope) error {
	if !k.told {
		key, err := k.key()
		if err != nil {
			return err
		}
		r, err := vouched(k.node(), key.Public().(ed25519.PublicKey))
		if err != nil {
			return err
		}
		if _, err := to.PutLogKey(ctx, r); err != nil {
			return err
		}
		k.told = true
	}
	err := to.SendFlows(ctx, lines)
	if errors.Is(err, &api.Error{Code: api.CodeLogKeyUnknown}) {
		k.told = false // a server that was restored, or another one: the lines come again
	}
	return err
}

// vouched is the key with the word of the node's certificate for it.
func vouched(id *state.Identity, key ed25519.PublicKey) (api.LogKeyRequest, error) {
	pair, err := id.Certificate()
	if err != nil {
		return api.LogKeyRequest{}, err
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return api.LogKeyRequest{}, errors.New("node certificate: its key signs nothing")
	}
	p, err := seal.Vouch(id.Node, key, pair.Certificate[0], signer)
	if err != nil {
		return api.LogKeyRequest{}, err
	}
	return api.LogKeyRequest{PublicKey: key, Certificate: p.Certificate, Signature: p.Signature}, nil
}
