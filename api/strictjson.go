package api

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// MaxJSONDepth bounds how deep the JSON of a request nests; the deepest one of ours has four levels.
const MaxJSONDepth = 16

// CheckJSON refuses what two readers could take for two different things, before anything is read from it: text that is not
// UTF-8, an object with one name twice, more than one value. It also bounds how deep values nest.
func CheckJSON(data []byte) *Error {
	const remedy = "send one JSON object, in UTF-8, as /openapi.json describes it"
	refuse := func(format string, args ...any) *Error { return invalid("body", remedy, format, args...) }
	if !utf8.Valid(data) {
		return refuse("the body is not UTF-8")
	}
	var whole json.RawMessage
	if err := json.Unmarshal(data, &whole); err != nil {
		return refuse("the body is not JSON: %v", err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var open []map[string]bool // names seen in the objects around, nil for arrays
	name := false              // whether the next token of an object is a name
	for {
		token, err := d.Token()
		if err != nil { // the end: that it is JSON is known
			return nil
		}
		switch t := token.(type) {
		case json.Delim:
			switch t {
			case '{':
				open = append(open, map[string]bool{})
			case '[':
				open = append(open, nil)
			default:
				open = open[:len(open)-1]
			}
			if len(open) > MaxJSONDepth {
				return refuse("the body nests deeper than %d levels", MaxJSONDepth)
			}
			name = len(open) > 0 && open[len(open)-1] != nil
			continue
		case string:
			if name {
				if open[len(open)-1][t] {
					return refuse("the name %q is given twice", Shortened(t))
				}
				open[len(open)-1][t] = true
				name = false
				continue
			}
		}
		name = len(open) > 0 && open[len(open)-1] != nil
	}
}

// maxQuoted bounds what a refusal repeats of what was sent, in bytes.
const maxQuoted = 300

// Shortened is what a refusal repeats of a text: all of it, or its beginning.
func Shortened(s string) string {
	if len(s) <= maxQuoted {
		return s
	}
	end := maxQuoted
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
