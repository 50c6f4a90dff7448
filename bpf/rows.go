package bpf

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// Tables whose rows SetRows writes in place.
const (
	RowLink          = ABIRowTableROW_LINK
	RowENI           = ABIRowTableROW_ENI
	RowAddress       = ABIRowTableROW_ADDRESS
	RowService       = ABIRowTableROW_SERVICE
	RowGrant         = ABIRowTableROW_GRANT
	RowGrantTarget   = ABIRowTableROW_GRANT_TARGET
	RowProbe         = ABIRowTableROW_PROBE
	RowFragmentCount = ABIRowTableROW_FRAGMENT_COUNT
)

// NewRowOrder is the order to write a value over the one that a table has for a key.
func NewRowOrder(table RowTable, key, value any) (RowOrder, error) {
	o := RowOrder{Table: uint32(table)}
	if _, err := binary.Encode(o.Key[:], binary.NativeEndian, key); err != nil {
		return o, fmt.Errorf("encode the key of a row: %w", err)
	}
	var words [len(o.Words) * 8]byte
	if _, err := binary.Encode(words[:], binary.NativeEndian, value); err != nil {
		return o, fmt.Errorf("encode a row: %w", err)
	}
	for i := range o.Words {
		o.Words[i] = binary.NativeEndian.Uint64(words[8*i:])
	}
	return o, nil
}

// SetRows runs set_rows, in as many runs as it takes, and fills in what was Done, which is valid beside an error too.
func SetRows(set *ebpf.Program, orders []RowOrder) error {
	for batch := range slices.Chunk(orders, int(ABIRowLimitROW_ORDERS)) {
		if err := runOrders(set, batch); err != nil {
			return fmt.Errorf("set rows: %w", err)
		}
	}
	return nil
}

// runOrders gives orders to a program that leaves its answers in their place.
func runOrders[T any](p *ebpf.Program, orders []T) error {
	data, err := binary.Append(make([]byte, ABIMarkLimitMARK_HEADER), binary.NativeEndian, orders)
	if err != nil {
		return err
	}
	opts := &ebpf.RunOptions{Data: data, DataOut: make([]byte, len(data)+256)}
	if _, err := p.Run(opts); err != nil {
		return err
	}
	_, err = binary.Decode(opts.DataOut[ABIMarkLimitMARK_HEADER:], binary.NativeEndian, orders)
	return err
}
