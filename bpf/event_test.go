package bpf

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestParseEvent(t *testing.T) {
	raw := make([]byte, binary.Size(Event{}))
	for i := range raw {
		raw[i] = byte(i*7 + 1)
	}
	e, err := ParseEvent(raw)
	if err != nil {
		t.Fatal(err)
	}
	back, err := binary.Append(nil, binary.NativeEndian, e)
	if err != nil || !bytes.Equal(back, raw[:len(back)]) {
		t.Errorf("read %x, want %x (%v)", back, raw, err)
	}
	for _, other := range [][]byte{raw[:len(raw)-1], append(raw, 0)} {
		if _, err := ParseEvent(other); err == nil {
			t.Errorf("an event of %d bytes is accepted", len(other))
		}
	}
}
