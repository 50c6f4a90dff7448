package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"time"

	"sigs.k8s.io/yaml"
)

// print writes v as JSON or YAML, or by the given function as text.
func (a *app) print(v any, text func(io.Writer) error) error {
	switch a.output {
	case "json":
		enc := json.NewEncoder(a.Out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	case "yaml":
		b, err := toYAML(v)
		if err == nil {
			_, err = a.Out.Write(b)
		}
		return err
	}
	return text(a.Out)
}

// toYAML goes by JSON, so that names of fields are those of the API.
func toYAML(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	b, err = yaml.JSONToYAML(b)
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	return b, nil
}

// table writes aligned columns. Empty cells are "-"; nothing is cut.
func table(w io.Writer, head []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(cells []string) {
		for i, c := range cells {
			if i > 0 {
				io.WriteString(tw, "\t")
			}
			io.WriteString(tw, plainCell(c))
		}
		io.WriteString(tw, "\n")
	}
	line(head)
	for _, r := range rows {
		line(r)
	}
	return tw.Flush() // the first error of any write is kept by the tabwriter's destination
}

// plainCell is a cell as it is printed.
func plainCell(c string) string { return dash(strings.NewReplacer("\t", " ", "\n", " ").Replace(c)) }

// details writes a value as a list of its fields under the API's names; lists of structures become tables below.
func details(w io.Writer, v any) error {
	var body, lists bytes.Buffer
	tw := tabwriter.NewWriter(&body, 0, 0, 2, ' ', 0)
	var err error
	fields(reflect.ValueOf(v), func(name string, f reflect.Value) {
		if f.Kind() == reflect.Slice && isRecord(f.Type().Elem()) {
			fmt.Fprintf(&lists, "\n%s (%d)\n", name, f.Len())
			if f.Len() > 0 && err == nil {
				err = records(&lists, f)
			}
			return
		}
		fmt.Fprintf(tw, "%s\t%s\n", name, dash(cell(f)))
	})
	tw.Flush()
	if err != nil {
		return err
	}
	if _, err := body.WriteTo(w); err != nil {
		return err
	}
	_, err = lists.WriteTo(w)
	return err
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// isRecord tells structures with fields of their own from those with a text form, such as addresses.
func isRecord(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	_, text := t.MethodByName("MarshalText")
	return !text
}

// fields calls each for the exported fields of a structure, under their JSON names: of embedded ones as of its own, of others behind
// their name.
func fields(v reflect.Value, each func(string, reflect.Value)) {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	for i := range v.NumField() {
		f, t := v.Field(i), v.Type().Field(i)
		name, _, _ := strings.Cut(t.Tag.Get("json"), ",")
		switch {
		case !t.IsExported() || name == "-":
		case t.Anonymous && name == "":
			fields(f, each)
		case f.Kind() == reflect.Struct && isRecord(f.Type()), f.Kind() == reflect.Pointer && isRecord(f.Type().Elem()):
			fields(f, func(inner string, f reflect.Value) { each(name+"."+inner, f) })
		default:
			each(name, f)
		}
	}
}

func records(w io.Writer, list reflect.Value) error {
	var head []string
	var rows [][]string
	for i := range list.Len() {
		var row []string
		fields(list.Index(i), func(name string, f reflect.Value) {
			if i == 0 {
				head = append(head, strings.ToUpper(name))
			}
			row = append(row, cell(f))
		})
		rows = append(rows, row)
	}
	var b bytes.Buffer
	if err := table(&b, head, rows); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		if _, err := io.WriteString(w, "  "+line); err != nil {
			return err
		}
	}
	return nil
}

// cell is one value as text: lists joined with commas, absent values empty.
func cell(f reflect.Value) string {
	switch v := f.Interface().(type) {
	case time.Time:
		return stamp(v)
	case time.Duration:
		return v.Round(time.Second).String()
	}
	switch f.Kind() {
	case reflect.Slice:
		if f.Type().Elem().Kind() == reflect.Uint8 {
			return fmt.Sprintf("%x", f.Bytes())
		}
		parts := make([]string, f.Len())
		for i := range parts {
			parts[i] = cell(f.Index(i))
		}
		return strings.Join(parts, ", ")
	case reflect.Map:
		b, err := json.Marshal(f.Interface()) // keys sorted
		if err != nil || f.Len() == 0 {
			return ""
		}
		return string(b)
	case reflect.Bool:
		return yesNo(f.Bool())
	}
	if f.IsZero() && f.Kind() == reflect.Struct { // netip.Addr, netip.Prefix
		return ""
	}
	return fmt.Sprint(f.Interface())
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
