package bpf

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// Rows that are there are written over, from first to last byte and nobody else's, in as many runs as it takes; where there is none, none is
// made.
func TestSetRows(t *testing.T) {
	n := newNode(t, 1)
	setRows[uint32, Link](t, n, "links", RowLink)
	setRows[VPCAddr, ENI](t, n, "enis", RowENI)
	setRows[VPCAddr, Address](t, n, "addresses", RowAddress)
	setRows[ServiceKey, Service](t, n, "services", RowService)
	setRows[GrantKey, Grant](t, n, "grants", RowGrant)
	setRows[GrantTargetKey, GrantTarget](t, n, "grant_targets", RowGrantTarget)
	setRows[ProbeKey, Probe](t, n, "probes", RowProbe)
	setRows[FragmentCount, uint64](t, n, "fragment_counts", RowFragmentCount)
}

func setRows[K, V comparable](t *testing.T, n *node, name string, table RowTable) {
	t.Helper()
	const rows = int(ABIRowLimitROW_ORDERS) + 3
	m := n.coll.Maps[name]
	var orders []RowOrder
	for i := range byte(rows) {
		if i != 1 {
			n.put(name, filled[K](i), filled[V](0x11))
		}
		if i == 2 { // nobody speaks of this one
			continue
		}
		o, err := NewRowOrder(table, filled[K](i), filled[V](100+i))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		orders = append(orders, o)
	}
	if err := SetRows(n.coll.Programs[ABIProgSetRows], orders); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for i, o := range orders {
		if want := map[bool]uint32{true: 0, false: 1}[i == 1]; o.Done != want {
			t.Errorf("%s: order %d: done %d", name, i, o.Done)
		}
	}
	for i := range byte(rows) {
		var v V
		err := m.Lookup(filled[K](i), &v)
		switch {
		case i == 1:
			if err == nil {
				t.Errorf("%s: a row was made", name)
			}
		case err != nil:
			t.Errorf("%s: row %d: %v", name, i, err)
		case i == 2 && v != filled[V](0x11), i != 2 && v != filled[V](100+i):
			t.Errorf("%s: row %d: %+v", name, i, v)
		}
	}
}

// filled is a value of which each byte is the same.
func filled[T any](b byte) (v T) {
	if _, err := binary.Decode(bytes.Repeat([]byte{b}, binary.Size(v)), binary.NativeEndian, &v); err != nil {
		panic(err)
	}
	return v
}
