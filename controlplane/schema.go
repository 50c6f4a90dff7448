package controlplane

import (
	"net/netip"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

// The framework knows some types less well than we do. What a schema refuses is answered with the field's name, what only
// decoding refuses is not; so these say what decoding takes.

type (
	cidrSchema   struct{}
	uint16Schema struct{}
	uint32Schema struct{}
)

// Schema implements huma.SchemaProvider.
func (cidrSchema) Schema(huma.Registry) *huma.Schema {
	octet := `(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])`
	return &huma.Schema{Type: huma.TypeString, Pattern: `^` + octet + `(\.` + octet + `){3}/(3[0-2]|[12]?[0-9])$`,
		PatternDescription: "an IPv4 prefix such as 10.0.0.0/16", Examples: []any{"10.0.0.0/16"}}
}

// Schema implements huma.SchemaProvider.
func (uint16Schema) Schema(huma.Registry) *huma.Schema { return wholeNumber(1<<16 - 1) }

// Schema implements huma.SchemaProvider.
func (uint32Schema) Schema(huma.Registry) *huma.Schema { return wholeNumber(1<<32 - 1) }

func wholeNumber(most float64) *huma.Schema {
	least := 0.0
	return &huma.Schema{Type: huma.TypeInteger, Minimum: &least, Maximum: &most}
}

func describeTypes(r huma.Registry) {
	r.RegisterTypeAlias(reflect.TypeFor[netip.Prefix](), reflect.TypeFor[cidrSchema]())
	r.RegisterTypeAlias(reflect.TypeFor[uint16](), reflect.TypeFor[uint16Schema]())
	r.RegisterTypeAlias(reflect.TypeFor[uint32](), reflect.TypeFor[uint32Schema]())
}
