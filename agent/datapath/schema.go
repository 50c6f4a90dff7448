package datapath

import (
	"bytes"
	_ "embed" // objects of schemas of before
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

//go:embed schemas/2.o
var object2 []byte

// objects are the programs of schemas of before to which there is a way back, little-endian as schemas/README.md says.
var objects = map[uint32][]byte{2: object2}

// errByteOrder is for machines that nothing is built for.
var errByteOrder = errors.New("there are no programs of another schema for this machine's byte order")

// loadSchema reads the programs of a schema of before.
func loadSchema(version uint32) (*ebpf.CollectionSpec, error) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, errByteOrder
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(objects[version]))
	if err != nil {
		return nil, fmt.Errorf("read the object of schema %d: %w", version, err)
	}
	return spec, nil
}
