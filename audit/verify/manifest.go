package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// KindExport is the kind of the report leaf that has a manifest's hash.
const KindExport = "export"

const manifestName = "manifest.json"

// Manifest says which part of the evidence a copy has. The log is whole in any copy.
type Manifest struct {
	Version  int            `json:"version"` // 1
	At       time.Time      `json:"at"`
	Origin   string         `json:"origin"`
	Since    time.Time      `json:"since"`              // segments whose seals were made from here on
	Until    time.Time      `json:"until"`              // and before
	TreeSize uint64         `json:"treeSize,omitempty"` // of which the log had the leaves before this one; 0: of all
	Nodes    []string       `json:"nodes,omitzero"`     // absent: all
	Accounts []string       `json:"accounts,omitempty"`
	Files    []ManifestFile `json:"files,omitempty"` // of segments/ only
}

// ManifestFile is a file of the copy.
type ManifestFile struct {
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// readManifest reads the manifest, where there is one.
func (v *verifier) readManifest() {
	err := v.regular(manifestName)
	var data []byte
	if err == nil {
		data, err = fs.ReadFile(v.fsys, manifestName)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		v.logBad(manifestName, "cannot be read: %s", reason(err))
		return
	}
	m := new(Manifest)
	if err := json.Unmarshal(data, m); err != nil {
		v.logBad(manifestName, "%s", err)
		return
	}
	if m.Version != 1 {
		v.logBad(manifestName, "version %d is not known here, 1 is", m.Version)
	}
	v.manifest, v.report.Copy = m, m
}

// judgeManifest looks whether the log knows the manifest, and whether its files are here.
func (v *verifier) judgeManifest() {
	m := v.manifest
	if m == nil {
		return
	}
	data, err := fs.ReadFile(v.fsys, manifestName)
	if err != nil {
		v.logBad(manifestName, "cannot be read: %s", reason(err))
		return
	}
	sum := sha256.Sum256(data)
	if !v.exports[hex.EncodeToString(sum[:])] {
		v.logBad(manifestName, "is not the manifest of a copy that the log knows: who made it has chosen what is here")
	}
	if v.report.Origin != "" && m.Origin != v.report.Origin {
		v.logBad(manifestName, "is of the log %q, here is %q", m.Origin, v.report.Origin)
	}
	for _, f := range m.Files {
		if v.o.AuditOnly || !strings.HasPrefix(f.Path, segmentsDir) {
			continue
		}
		have, size, err := v.sum(f.Path)
		switch {
		case err != nil:
			v.logBad(f.Path, "is in the manifest and cannot be read: %s", reason(err))
		case size != f.Bytes || have != f.SHA256:
			v.logBad(f.Path, "is not the file that the manifest names")
		}
	}
}

// within tells whether the copy is meant to have a segment.
func (m *Manifest) within(s *sealed) bool {
	return m == nil || between(s.End, m.Since, m.Until) && (m.Nodes == nil || slices.Contains(m.Nodes, s.Node)) &&
		(m.TreeSize == 0 || s.index < m.TreeSize)
}

func between(t, since, until time.Time) bool {
	return (since.IsZero() || !t.Before(since)) && (until.IsZero() || t.Before(until))
}

// asked tells whether a segment is to be judged.
func (v *verifier) asked(node string, end time.Time) bool {
	return between(end, v.o.Since, v.o.Until) && (v.o.Node == "" || v.o.Node == node)
}
