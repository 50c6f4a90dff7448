package state

import (
	"errors"
	"fmt"
	"os"
)

// joiningFile is there while a join is under way.
const joiningFile = "joining.json"

// Joining is what a node asks to be certified. It is kept until the answer is, so that a join whose answer was lost is
// repeated with the same key: by that the control plane knows who may use the token again.
type Joining struct {
	KeyPEM string `json:"key"` // PKCS #8
	CSR    []byte `json:"csr"` // DER
}

// LoadJoining is the join that was under way when its process ended; nil: none was, or its file is of no use.
func (d Dir) LoadJoining() *Joining {
	var j Joining
	if found, err := d.readJSON(joiningFile, &j); err != nil || !found {
		return nil
	}
	return &j
}

// SaveJoining comes before the control plane is asked.
func (d Dir) SaveJoining(j *Joining) error { return d.writeJSON(joiningFile, j) }

// ForgetJoining comes after the identity was saved. Without the file it does nothing.
func (d Dir) ForgetJoining() error {
	if err := os.Remove(d.Path(joiningFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("join: %w", err)
	}
	return nil
}
