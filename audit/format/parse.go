package format

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// Default is AWS's default format: the fields of version 2 in AWS's order.
var Default = write(2, 2)

// All names every field.
var All = write(0, 11)

// MaxLength bounds a format string, in bytes: every field once has less than a third of it.
const MaxLength = 4096

// write is the format string of the fields of some versions.
func write(least, most int) string {
	var words []string
	for _, f := range registry {
		if f.Version >= least && f.Version <= most {
			words = append(words, "${"+f.Name+"}")
		}
	}
	return strings.Join(words, " ")
}

// Parse reads a format string as AWS writes it: fields as ${name}, separated by blanks. Errors are of the parameter logFormat.
func Parse(format string) ([]Field, error) {
	refuse := func(remedy, why string, args ...any) error {
		return api.Errorf(api.CodeInvalidParameter, "logFormat", remedy, why, args...)
	}
	if len(format) > MaxLength {
		return nil, refuse("name fewer fields", "the format has %d bytes, at most %d are allowed", len(format), MaxLength)
	}
	words := strings.Fields(format)
	if len(words) == 0 {
		return nil, refuse("name fields, such as '${srcaddr} ${dstaddr} ${action}', or leave it out for the default", "the format is empty")
	}
	fields := make([]Field, 0, len(words))
	seen := map[string]bool{}
	for _, w := range words {
		name, opened := strings.CutPrefix(w, "${")
		name, closed := strings.CutSuffix(name, "}")
		if !opened || !closed {
			return nil, refuse("write each field as ${name}, with a blank between two; in a shell, within single quotes",
				"%q is no field", api.Shortened(w))
		}
		f, ok := byName[name]
		if !ok {
			return nil, refuse("see the fields in docs/FLOWLOGS.md", "there is no field %q", api.Shortened(name))
		}
		if seen[name] {
			return nil, refuse("name it once", "the field %q is named twice", name)
		}
		seen[name] = true
		fields = append(fields, f)
	}
	return bind(fields), nil
}

// bind lets the field version tell the version of the format that it is in.
func bind(fields []Field) []Field {
	version := int64(2)
	for _, f := range fields {
		version = max(version, int64(f.Version))
	}
	for i := range fields {
		if fields[i].Name == "version" {
			fields[i].num = func(*Row) (int64, bool) { return version, true }
		}
	}
	return fields
}

// Header is the first line of a text file, without newline.
func Header(fields []Field) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	return strings.Join(names, " ")
}

// AppendText appends a row as a line of text, with its newline.
func AppendText(dst []byte, fields []Field, r *Row) []byte {
	for i := range fields {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = append(dst, fields[i].Text(r)...)
	}
	return append(dst, '\n')
}

// AppendJSON appends a row as a line with a JSON object, with its newline. Its keys are the columns; what is missing is null.
func AppendJSON(dst []byte, fields []Field, r *Row) ([]byte, error) {
	dst = append(dst, '{')
	for i := range fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendQuote(dst, fields[i].Column())
		dst = append(dst, ':')
		if n, ok := fields[i].Int(r); ok {
			dst = strconv.AppendInt(dst, n, 10)
			continue
		}
		s, ok := fields[i].Value(r)
		if !ok {
			dst = append(dst, "null"...)
			continue
		}
		word, err := json.Marshal(s)
		if err != nil {
			return dst, fmt.Errorf("field %s: %w", fields[i].Name, err)
		}
		dst = append(dst, word...)
	}
	return append(dst, '}', '\n'), nil
}
