package datapath

import (
	"reflect"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/bpf"
)

// What each field of a row is: one of what the row is about, or one that programs may meet old beside others that are new. A field that
// is added has to be one or the other.
func TestWhatRowsAreAbout(t *testing.T) {
	beside := func(names ...string) []string { return append(names, "Spare", "Pad", "Pad2") }
	eachField(t, sameENI, []string{"Number"}, beside("Ifindex", "IngressRules", "EgressRules", "Groups", "Mac", "GatewayMac", "Families",
		"Lane", "Flags", "Account"))
	eachField(t, sameLink, []string{"At", "Eni"}, nil)
	eachField(t, sameAddress, []string{"Type", "Number"}, beside("Rules", "EgressRules", "Groups", "Families"))
	eachField(t, sameService, []string{"Connection", "ProviderVpc", "EndpointEni", "Tag"}, beside("Table", "TableWidth", "Flags", "IdleS"))
	eachField(t, sameGrant, []string{"Connection", "ProviderVpc", "DialedAddr", "DialedPort", "Protocol", "Flags", "Endpoint", "EndpointLen"},
		beside("Admitted", "LbRules", "LbEgressRules", "IdleS", "Account"))
	eachField(t, sameProbe, nil, beside("Source"))
	eachField(t, sameGrantTarget, nil, beside("Source", "SourceEni", "Ports", "Flags"))

	// Of what counts as one field above, parts that do not.
	var was, is bpf.Link
	was.Eni.Number, is.Eni.Number, is.Eni.IngressRules = 7, 7, 9
	if !sameLink(was, is) {
		t.Error("a link whose ENI has other rules is another")
	}
	if !sameGrant(bpf.Grant{}, bpf.Grant{Flags: uint8(bpf.GrantProxy | bpf.GrantClient)}) {
		t.Error("a grant whose targets learn more of clients is another")
	}
}

// eachField changes each field of a row by itself and asks whether that is the same row still.
func eachField[V any](t *testing.T, same func(was, is V) bool, about, beside []string) {
	t.Helper()
	var row V
	kind := reflect.TypeOf(row)
	for i := range kind.NumField() {
		name := kind.Field(i).Name
		if name == "_" {
			continue
		}
		changed := reflect.New(kind).Elem()
		setAll(changed.Field(i))
		isSame := same(row, changed.Interface().(V))
		switch {
		case slices.Contains(about, name):
			if isSame {
				t.Errorf("%s.%s: another row is taken for the same", kind.Name(), name)
			}
		case slices.Contains(beside, name):
			if !isSame {
				t.Errorf("%s.%s: the same row is taken for another", kind.Name(), name)
			}
		default:
			t.Errorf("%s.%s: nobody says what it is", kind.Name(), name)
		}
	}
}

// setAll sets all bits.
func setAll(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "_" {
				setAll(v.Field(i))
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			setAll(v.Index(i))
		}
	default:
		v.SetUint(1<<v.Type().Bits() - 1)
	}
}
