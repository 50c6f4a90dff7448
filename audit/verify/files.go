package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/audit/tiles"
)

const deliveriesDir = "deliveries/"

// sum is the SHA-256 of a file in hex, and its size.
func (v *verifier) sum(path string) (string, int64, error) {
	if err := v.regular(path); err != nil {
		return "", 0, err
	}
	f, err := v.fsys.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), n, err
}

// deliveries compares delivered files with what the log says of them. Where some of a flow log's are here, all are to be; flow logs
// none of whose are here were delivered elsewhere.
func (v *verifier) deliveries() {
	here, logs := map[string]bool{}, map[string]bool{}
	v.walk(strings.TrimSuffix(deliveriesDir, "/"), func(path string) {
		name := strings.TrimPrefix(path, deliveriesDir)
		here[name] = true
		id, _, _ := strings.Cut(name, "/")
		logs[id] = true
		o := v.objects[name]
		if o == nil {
			v.find(Finding{File: path, What: "the log knows no such delivery"})
			return
		}
		have, size, err := v.sum(path)
		switch {
		case err != nil:
			v.find(Finding{File: path, At: o.Last, What: fmt.Sprintf("cannot be read: %s", reason(err))})
		case size != o.Size || have != o.SHA256:
			v.find(Finding{File: path, At: o.Last, What: fmt.Sprintf("has %d bytes with the hash %s, delivered were %d with %s", size, have,
				o.Size, o.SHA256)})
		default:
			v.report.Objects++
		}
	})
	for _, name := range slices.Sorted(maps.Keys(v.objects)) {
		o := v.objects[name]
		switch {
		case here[name]:
		case logs[o.FlowLog] && v.files[deliveriesDir+name] != o.SHA256:
			v.find(Finding{File: deliveriesDir + name, At: o.Last, What: "was delivered and is not here, though others of its flow log are"})
		default:
			v.report.ObjectsGone++
		}
	}
}

// walk calls fn for each file below a directory, which may be absent.
func (v *verifier) walk(dir string, fn func(path string)) {
	err := fs.WalkDir(v.fsys, dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() {
			fn(path)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.logBad(dir, "cannot be read: %s", reason(err))
	}
}

// leftover: Tessera writes a file under its name with a number behind it first; that is what stays of one when it is killed.
func leftover(name string) bool {
	return name != tiles.Checkpoint && strings.TrimRight(name, "0123456789") == tiles.Checkpoint
}

// strangers counts files of the log that are of other sizes of the tree, or its keeper's own, and names those that are nothing.
func (v *verifier) strangers() {
	v.walk(strings.TrimSuffix(logDir, "/"), func(path string) {
		name := strings.TrimPrefix(path, logDir)
		switch {
		case v.log.read[path]:
		case tiles.IsPath(name) || strings.HasPrefix(name, ".") || leftover(name):
			v.report.Ignored++
		default:
			v.logBad(path, "does not belong here")
		}
	})
}
