package bpf

import (
	"reflect"
	"strings"
	"testing"
	"unicode"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

func loadSpec(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	spec, err := LoadABI()
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// Every structure that Go fills or reads has the size and the offsets that the compiler gave it.
func TestTypesMatchObject(t *testing.T) {
	spec := loadSpec(t)
	for name, value := range map[string]any{
		"config": Config{}, "vpc_addr": VPCAddr{}, "eni": ENI{}, "link": Link{}, "address": Address{}, "rule": Rule{}, "rule_set": RuleSet{},
		"service_key": ServiceKey{}, "service": Service{}, "target": Target{}, "grant_key": GrantKey{}, "grant": Grant{},
		"grant_target_key": GrantTargetKey{}, "grant_target": GrantTarget{}, "flow_key": FlowKey{}, "flow": Flow{},
		"flow_mark": FlowMark{}, "flow_removal": FlowRemoval{}, "quota_key": QuotaKey{}, "quota": Quota{},
		"quota_limits": QuotaLimits{}, "quota_order": QuotaOrder{}, "row_order": RowOrder{},
		"usage":       Usage{},
		"counter_key": CounterKey{}, "counter": Counter{},
		"refusal_key": RefusalKey{},
		"refusal":     Refusal{}, "event": Event{}, "outcome": Outcome{},
	} {
		c := structOf(t, spec, name)
		g := reflect.TypeOf(value)
		if int(c.Size) != int(g.Size()) {
			t.Errorf("struct %s has %d bytes, %s has %d", name, c.Size, g.Name(), g.Size())
		}
		end := uint32(0)
		for _, m := range c.Members {
			field, ok := g.FieldByName(goField(m.Name))
			if !ok {
				t.Errorf("%s has no field for %s.%s", g.Name(), name, m.Name)
				continue
			}
			if m.BitfieldSize != 0 || uint32(field.Offset) != m.Offset.Bytes() {
				t.Errorf("%s.%s is at %d, in Go at %d", name, m.Name, m.Offset.Bytes(), field.Offset)
			}
			if m.Offset.Bytes() != end {
				t.Errorf("%s: %d bytes of hidden padding before %s", name, m.Offset.Bytes()-end, m.Name)
			}
			size, err := btf.Sizeof(m.Type)
			if err != nil {
				t.Fatal(err)
			}
			end = m.Offset.Bytes() + uint32(size)
		}
		if end != c.Size {
			t.Errorf("%s: %d bytes of hidden padding at the end", name, c.Size-end)
		}
	}
}

// structOf finds the whole structure; the object's BTF may hold a name twice.
func structOf(t *testing.T, spec *ebpf.CollectionSpec, name string) *btf.Struct {
	t.Helper()
	types, err := spec.Types.AnyTypesByName(name)
	if err != nil {
		t.Fatalf("struct %s: %v", name, err)
	}
	for _, typ := range types {
		if s, ok := typ.(*btf.Struct); ok {
			return s
		}
	}
	t.Fatalf("%s is no structure", name)
	return nil
}

// goField is bpf2go's name of a C field.
func goField(c string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(c, "_") {
		for i, r := range part {
			if i == 0 {
				r = unicode.ToUpper(r)
			}
			b.WriteRune(r)
		}
	}
	return b.String()
}

// The enums of the header are those of the object, and a reason's String is its C name.
func TestReasonNames(t *testing.T) {
	var enum *btf.Enum
	if err := loadSpec(t).Types.TypeByName("reason", &enum); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, v := range enum.Values {
		if v.Name == "REASON_MAX" {
			continue
		}
		n++
		if got := "REASON_" + Reason(v.Value).String(); got != v.Name {
			t.Errorf("reason %d is %s, want %s", v.Value, got, v.Name)
		}
		if r, ok := ParseReason(strings.TrimPrefix(v.Name, "REASON_")); !ok || r != Reason(v.Value) {
			t.Errorf("ParseReason(%s) = %d, %v", v.Name, r, ok)
		}
	}
	if n != len(reasonNames) {
		t.Errorf("%d reasons in the object, %d in Go", n, len(reasonNames))
	}
	if got := Reason(63).String(); got != "REASON_63" {
		t.Errorf("unknown reason is %q", got)
	}
	if _, ok := ParseReason("REASON_63"); ok {
		t.Error("an unknown reason was found")
	}
}

// Programs that are attached let nothing through by default: all their maps are empty after a load.
func TestMapsAreDeclaredEmpty(t *testing.T) {
	spec := loadSpec(t)
	for name, m := range spec.Maps {
		if !strings.HasPrefix(name, ".") && len(m.Contents) > 0 {
			t.Errorf("map %s comes with contents", name)
		}
		if m.Pinning != ebpf.PinNone {
			t.Errorf("map %s is pinned by the object; agent/datapath decides that", name)
		}
	}
}
