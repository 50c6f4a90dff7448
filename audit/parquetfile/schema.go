package parquetfile

import (
	"fmt"
	"reflect"

	"github.com/parquet-go/parquet-go"

	"github.com/culvert-net/culvert/audit/format"
)

// bloomBits per distinct value: one false positive in some hundred.
const bloomBits = 10

// unique are string fields of which nearly every flow has its own value: a dictionary would hold them all.
var unique = map[string]bool{"flow-id": true}

// rising are integer fields whose values stand close to those of the rows before.
var rising = map[string]bool{"start": true, "end": true, "start-micros": true, "end-micros": true, "sequence": true}

// sought are the fields by which one value is looked for among many: what belongs to a connection, and addresses.
var sought = map[string]bool{
	"interface-id": true, "endpoint-id": true, "connection-id": true, "service-id": true, "rule-id": true,
	"srcaddr": true, "dstaddr": true, "pkt-srcaddr": true, "pkt-dstaddr": true, "nat-srcaddr": true, "nat-dstaddr": true,
}

// ordered is a group whose columns stand in the order of the format; the library's own sorts them by name.
type ordered struct {
	parquet.Group
	fields []parquet.Field
}

func (o ordered) Fields() []parquet.Field { return o.fields }

type column struct {
	parquet.Node
	name string
}

func (c column) Name() string { return c.name }

// Value is for rows that are Go values, which this package does not write.
func (c column) Value(base reflect.Value) reflect.Value {
	return base.MapIndex(reflect.ValueOf(c.name))
}

// schema of a format, and its options.
func schema(fields []format.Field) (*parquet.Schema, []parquet.WriterOption, error) {
	o := ordered{Group: parquet.Group{}}
	var filters []parquet.BloomFilterColumn
	for _, f := range fields {
		name := ColumnName(f.Name)
		if o.Group[name] != nil {
			return nil, nil, fmt.Errorf("field %s stands twice in the format: a Parquet file has each column once", f.Name)
		}
		n := node(f)
		o.Group[name] = n
		o.fields = append(o.fields, column{n, name})
		if sought[f.Name] {
			filters = append(filters, parquet.SplitBlockFilter(bloomBits, name))
		}
	}
	if len(o.fields) == 0 {
		return nil, nil, fmt.Errorf("the format names no field: a Parquet file needs a column")
	}
	return parquet.NewSchema("flow", o), []parquet.WriterOption{parquet.BloomFilters(filters...)}, nil
}

func node(f format.Field) parquet.Node {
	var n parquet.Node
	switch {
	case f.Type == format.String && unique[f.Name]:
		n = parquet.String()
	case f.Type == format.String:
		n = parquet.Encoded(parquet.String(), &parquet.RLEDictionary)
	default:
		bits := 64
		if f.Type == format.Int32 {
			bits = 32
		}
		n = parquet.Int(bits)
		if rising[f.Name] {
			n = parquet.Encoded(n, &parquet.DeltaBinaryPacked)
		}
	}
	return parquet.Optional(parquet.Compressed(n, &parquet.Zstd))
}
