package state

import (
	"cmp"
	"slices"

	"github.com/culvert-net/culvert/plan"
)

// LoadAttachments reads what the node's user attached, sorted by ENI.
func (d Dir) LoadAttachments() ([]plan.Attachment, error) {
	var as []plan.Attachment
	_, err := d.readJSON(attachmentsFile, &as)
	slices.SortFunc(as, func(a, b plan.Attachment) int { return cmp.Compare(a.ENI, b.ENI) })
	return as, err
}

// SaveAttachments replaces them.
func (d Dir) SaveAttachments(as []plan.Attachment) error { return d.writeJSON(attachmentsFile, as) }
