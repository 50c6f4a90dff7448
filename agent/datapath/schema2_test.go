package datapath

import (
	"crypto/sha256"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/bpf"
)

// structOf is a structure as an object's compiler laid it out.
func structOf(t *testing.T, spec *ebpf.CollectionSpec, name string) *btf.Struct {
	t.Helper()
	var s *btf.Struct
	if err := spec.Types.TypeByName(name, &s); err != nil {
		t.Fatalf("struct %s: %v", name, err)
	}
	return s
}

// goName is a C field's name in Go.
func goName(c string) (name string) {
	for _, word := range strings.Split(c, "_") {
		name += strings.ToUpper(word[:1]) + word[1:]
	}
	return name
}

func schema2(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	spec, err := loadSchema(2)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// What Go says of schema 2 is what its object has.
func TestSchema2Layouts(t *testing.T) {
	spec := schema2(t)
	for name, value := range map[string]any{
		"flow_key": bpf.FlowKey{}, "flow": flow2{}, "refusal_key": bpf.RefusalKey{}, "refusal": bpf.Refusal{}, "event": event2{},
		"counter_key": bpf.CounterKey{}, "counter": bpf.Counter{}, // the same in all schemas: carry.go adds them as they are
	} {
		c, g := structOf(t, spec, name), reflect.TypeOf(value)
		if uintptr(c.Size) != g.Size() {
			t.Errorf("struct %s has %d bytes, %s has %d", name, c.Size, g, g.Size())
		}
		for _, m := range c.Members {
			field, ok := g.FieldByName(goName(m.Name))
			if size, err := btf.Sizeof(m.Type); !ok || err != nil || uint32(field.Offset) != m.Offset.Bytes() ||
				int(field.Type.Size()) != size {
				t.Errorf("%s.%s of %d bytes at %d: %s has %v, %v", name, m.Name, size, m.Offset.Bytes(), g, field, err)
			}
		}
	}
	for _, s := range []*ebpf.CollectionSpec{spec, currentSpec(t)} {
		m := structOf(t, s, "config").Members
		if i := slices.IndexFunc(m, func(m btf.Member) bool { return m.Name == "generation" }); m[i].Offset.Bytes() != generationAt {
			t.Errorf("config.generation is at %d, want %d", m[i].Offset.Bytes(), generationAt)
		}
		for _, name := range kept {
			if s.Maps[name] == nil {
				t.Errorf("the object has no map %s", name)
			}
		}
	}
}

func currentSpec(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	spec, err := bpf.LoadABI()
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// Rows of a plan are what they were: who changes one has to say how an agent of schema 2 wrote it, which the tests of takeovers play.
func TestSchema2Rows(t *testing.T) {
	layout := func(spec *ebpf.CollectionSpec, name string) (fields []string) {
		for _, m := range structOf(t, spec, name).Members {
			size, err := btf.Sizeof(m.Type)
			if err != nil {
				t.Fatal(err)
			}
			fields = append(fields, fmt.Sprintf("%s of %d bytes at %d", m.Name, size, m.Offset.Bytes()))
		}
		return fields
	}
	for _, name := range strings.Fields("config vpc_addr eni link address rule rule_set service_key service target grant_key grant " +
		"grant_target_key grant_target probe_key probe path_key path quota_key quota quota_limits quota_order row_order") {
		if was, is := layout(schema2(t), name), layout(currentSpec(t), name); !slices.Equal(was, is) {
			t.Errorf("struct %s was %v, is %v", name, was, is)
		}
	}
}

// Numbers that entries hold mean the same in both schemas.
func TestSchema2Numbers(t *testing.T) {
	old, now := schema2(t), currentSpec(t)
	for _, name := range []string{"hook", "reason", "view", "next", "flow_flag", "loss", "event_kind", "tcp_state"} {
		var a, b *btf.Enum
		if err := old.Types.TypeByName(name, &a); err != nil {
			t.Fatal(err)
		}
		if err := now.Types.TypeByName(name, &b); err != nil {
			t.Fatal(err)
		}
		values := map[string]uint64{}
		for _, v := range b.Values {
			values[v.Name] = v.Value
		}
		for _, v := range a.Values {
			if n, ok := values[v.Name]; (!ok || n != v.Value) && !strings.HasSuffix(v.Name, "_MAX") {
				t.Errorf("%s is %d in schema 2 and %d, %v, today", v.Name, v.Value, n, ok)
			}
		}
	}
}

// The objects are those that their list names.
func TestSchemaObjects(t *testing.T) {
	list, err := os.ReadFile("schemas/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for version, object := range objects {
		sum := sha256.Sum256(object)
		if !strings.Contains(string(list), fmt.Sprintf("| `%d.o` | ", version)) || !strings.Contains(string(list), fmt.Sprintf("%x", sum)) {
			t.Errorf("schemas/README.md does not name %d.o with sum %x", version, sum)
		}
	}
	for _, p := range passages {
		if p.from < p.to && p.to != bpf.Version {
			t.Errorf("the passage from %d leads to %d, want to the present schema", p.from, p.to)
		}
	}
}

// Whoever adds a field to what is kept has to say what an entry of schema 2 has there, and whether schema 2 can do without.
func TestSchema2KnowsAllFields(t *testing.T) {
	for name, known := range map[string]string{
		"flow": "id last_ns packets bytes key generation peer_vpc saddr daddr sport dport tag next hook flags tcp_flags " +
			"reverse_view idle_s proxy proxy_done isn front mtu tcp_state seq_known account eni connection rule " +
			"next_seq retransmits timed handshake rtt",
		"flow_key":    "vpc saddr daddr sport dport tag view protocol",
		"refusal_key": "vpc dest_vpc eni saddr daddr dport tag reason protocol hook",
		"refusal":     "packets bytes first_ns last_ns sport pad",
		"event": "time_ns flow_id packets bytes key saddr daddr sport dport eni connection rule generation source_vpc dest_vpc " +
			"reason kind hook tcp_flags reverse_view flags tcp_state pad retransmits handshake rtt",
	} {
		var have []string
		for _, m := range structOf(t, currentSpec(t), name).Members {
			have = append(have, m.Name)
		}
		if want := strings.Fields(known); !slices.Equal(slices.Sorted(slices.Values(have)), slices.Sorted(slices.Values(want))) {
			t.Errorf("struct %s has the fields %v, schema2.go knows %v: convert the new ones both ways, then list them here",
				name, have, want)
		}
	}
}

// draw fills a structure of numbers.
func draw[V any](t *rapid.T, name string) (v V) {
	fields := reflect.ValueOf(&v).Elem()
	var fill func(reflect.Value, string)
	fill = func(to reflect.Value, at string) {
		switch to.Kind() {
		case reflect.Struct:
			for i := range to.NumField() {
				if to.Type().Field(i).Name != "_" {
					fill(to.Field(i), at+"."+to.Type().Field(i).Name)
				}
			}
		case reflect.Array: // padding
		default:
			to.SetUint(rapid.Uint64Range(1, 1<<to.Type().Bits()-1).Draw(t, at))
		}
	}
	fill(fields, name)
	return v
}

// An entry of schema 2 comes back as it was, but for what says nothing there; so does an event.
func TestSchema2ThereAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old := draw[flow2](t, "flow")
		k, f, ok := flow2Up(&old.Key, &old)
		if !ok || k != old.Key {
			t.Fatalf("%+v has no words today", old)
		}
		back, again, ok := flow2Down(&k, &f)
		if old.Generation, old.Spare = 0, 0; again.Generation != 0 || !ok || back != old.Key || again != old {
			t.Fatalf("%+v came back as %+v, %v", old, again, ok)
		}
		event := draw[event2](t, "event")
		e, ok1 := event2Up(&event)
		was, ok2 := event2Down(&e)
		if !ok1 || !ok2 || was != event {
			t.Fatalf("%+v came back as %+v", event, was)
		}
	})
}

// Entries that are being made or removed are of no flow, either way; what is remembered of TCP is not asked for.
func TestSchema2HasNoWords(t *testing.T) {
	k := bpf.FlowKey{Vpc: 1, Saddr: 1, Daddr: 2, View: uint8(bpf.ViewWorkload), Protocol: 6}
	for name, c := range map[string]struct {
		key bpf.FlowKey
		id  uint64
		ok  bool
	}{"whole": {k, 7, true}, "another's key": {bpf.FlowKey{Vpc: 1}, 7, false}, "no id": {k, 0, false}} {
		if _, _, ok := flow2Up(&k, &flow2{Key: c.key, Id: c.id}); ok != c.ok {
			t.Errorf("%s: up %v", name, ok)
		}
		f := bpf.Flow{Key: c.key, Id: c.id, SeqKnown: 1, NextSeq: 2, Retransmits: 3, Timed: 4, Handshake: 5, Rtt: 6}
		if _, back, ok := flow2Down(&k, &f); ok != c.ok || back.Spare != 0 {
			t.Errorf("%s: down %v", name, ok)
		}
	}
}
