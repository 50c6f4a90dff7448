// Package sources sums up the C sources, so that a test can tell without a compiler that the committed object was made
// from them.
package sources

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"slices"
)

// File is where the sums lie, beside the object.
const File = "sources.sha256"

// Sum reads the C files of dir, the folder bpf, and returns the sums as `sha256sum --check` reads them.
func Sum(dir fs.FS) ([]byte, error) {
	var files []string
	for _, pattern := range []string{"*.c", "lib/*.h"} {
		found, err := fs.Glob(dir, pattern)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("sources: no C files")
	}
	slices.Sort(files)
	var out bytes.Buffer
	for _, name := range files {
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "%x  %s\n", sha256.Sum256(text), name)
	}
	return out.Bytes(), nil
}
