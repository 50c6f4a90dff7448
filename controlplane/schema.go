package controlplane

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-net/culvert/api"
)

// The framework knows some types less well than we do. What a schema refuses is answered with the field's name, what only
// decoding refuses is not; so these say what decoding takes.

type (
	cidrSchema   struct{}
	uint16Schema struct{}
	uint32Schema struct{}
	icmpSchema   struct{}
)

// Schema implements huma.SchemaProvider.
func (cidrSchema) Schema(huma.Registry) *huma.Schema {
	octet := `(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])`
	v4 := octet + `(\.` + octet + `){3}/(3[0-2]|[12]?[0-9])`
	v6 := `(` + strings.Join(ipv6Forms(), `|`) + `)/(12[0-8]|1[01][0-9]|[1-9]?[0-9])`
	return &huma.Schema{Type: huma.TypeString, Pattern: `^(` + v4 + `|` + v6 + `)$`,
		PatternDescription: "an IPv4 prefix such as 10.0.0.0/16, or an IPv6 prefix", Examples: []any{"10.0.0.0/16"}}
}

// ipv6Forms are the ways to write an IPv6 address: all eight groups, or a gap with so many before and at most so many behind.
func ipv6Forms() []string {
	const group = `[0-9a-fA-F]{1,4}`
	forms := []string{`(` + group + `:){7}` + group, `(` + group + `:){1,7}:`, `::(` + group + `(:` + group + `){0,6})?`}
	for before := 1; before <= 6; before++ {
		forms = append(forms, fmt.Sprintf(`(%s:){%d}(:%s){1,%d}`, group, before, group, 7-before))
	}
	return forms
}

// Schema implements huma.SchemaProvider.
func (uint16Schema) Schema(huma.Registry) *huma.Schema { return wholeNumber(1<<16 - 1) }

// Schema implements huma.SchemaProvider.
func (uint32Schema) Schema(huma.Registry) *huma.Schema { return wholeNumber(1<<32 - 1) }

// Schema implements huma.SchemaProvider.
func (icmpSchema) Schema(huma.Registry) *huma.Schema {
	s := wholeNumber(255)
	*s.Minimum = -1
	return s
}

func wholeNumber(most float64) *huma.Schema {
	least := 0.0
	return &huma.Schema{Type: huma.TypeInteger, Minimum: &least, Maximum: &most}
}

func describeTypes(r huma.Registry) {
	r.RegisterTypeAlias(reflect.TypeFor[netip.Prefix](), reflect.TypeFor[cidrSchema]())
	r.RegisterTypeAlias(reflect.TypeFor[uint16](), reflect.TypeFor[uint16Schema]())
	r.RegisterTypeAlias(reflect.TypeFor[uint32](), reflect.TypeFor[uint32Schema]())
	r.RegisterTypeAlias(reflect.TypeFor[api.ICMPNumber](), reflect.TypeFor[icmpSchema]())
}
