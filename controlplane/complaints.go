package controlplane

import (
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"github.com/culvert-net/culvert/api"
)

// maxDetails bounds how many of the framework's complaints a refusal repeats.
const maxDetails = 3

// oneLine writes what cannot be printed as Go does, so that no answer and no log is split by what somebody sent.
func oneLine(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// doesNotFit begins what the framework passes on about a property that the schema allows and the type does not hold.
const doesNotFit = "does not fit: "

// strictJSON is how bodies are read: see api.CheckJSON.
func strictJSON() huma.Format {
	f := huma.DefaultJSONFormat
	f.Unmarshal = func(data []byte, v any) error {
		if _, first := v.(*any); first { // the framework reads each body twice, and first into one of these
			if e := api.CheckJSON(data); e != nil {
				return errors.New(e.Message)
			}
		}
		err := huma.DefaultJSONFormat.Unmarshal(data, v)
		if misfit, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return errors.New(doesNotFit + misfit.Field)
		}
		return err
	}
	return f
}

const seeSchema = "see the schema in /openapi.json"

// complaint is one of the framework's complaints as ours.
func complaint(d *huma.ErrorDetail) *api.Error {
	e := api.Errorf(api.CodeInvalidParameter, api.Shortened(oneLine(fieldOf(d.Location))), seeSchema, "%s", d.Message)
	if name, ok := missingProperty(d.Message); ok {
		e.Code, e.Field, e.Remedy = api.CodeMissingParameter, strings.TrimPrefix(e.Field+"."+name, "body."), "give it"
	}
	if strings.HasSuffix(d.Message, "parameter is missing") {
		e.Code, e.Remedy = api.CodeMissingParameter, "give it"
	}
	if d.Message == validation.MsgUnexpectedProperty || d.Message == "unknown query parameter" {
		e.Remedy = "leave it out, or look for the right name in /openapi.json"
	}
	if field, ok := strings.CutPrefix(d.Message, doesNotFit); ok {
		e.Field, e.Message, e.Remedy = field, "the number is too large", "give a smaller number"
	}
	if what, ok := expectation(d.Message); ok {
		e.Message, e.Remedy = given(d.Value), "give "+what
	}
	return e
}

// said are the framework's expectations in our words; what is not among them follows "give" as it is.
var said = map[string]string{
	"integer": "a whole number", "float": "a number", "number": "a number", "boolean": "true or false", "array": "a list", "object": "an object",
	"string": "a text in quotes", "either RFC 2673 ipv4 or RFC 2373 ipv6": "an IP address such as 10.0.1.9",
	"RFC 3339 date-time": "a time such as 2026-01-02T15:04:05Z", "base64 encoded": "base64",
}

// expectation turns the framework's "expected …" into what to give.
func expectation(message string) (what string, ok bool) {
	if kind, bad := strings.CutPrefix(message, "invalid "); bad && said[kind] != "" { // of a query's or header's
		return said[kind], true
	}
	what, ok = strings.CutPrefix(message, "expected ")
	if !ok || strings.HasPrefix(message, "expected required property") {
		return "", false
	}
	for _, before := range []string{"string to be ", "value to be "} {
		what = strings.TrimPrefix(what, before)
	}
	if least, ok := strings.CutPrefix(what, "number >= "); ok {
		return least + " or more", true
	}
	if most, ok := strings.CutPrefix(what, "number <= "); ok {
		return most + " or less", true
	}
	if ours := said[what]; ours != "" {
		what = ours
	}
	return what, true
}

// given repeats a value that is not what was expected.
func given(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return "the value is of another kind"
	}
	return "it is " + api.Shortened(string(text))
}

// unambiguous refuses paths and queries that a second reader could take for something else, and values left empty: what is said
// and means nothing, such as dryRun= or half an escape, must not make a dry run a real one.
func unambiguous(u *url.URL) *api.Error {
	if p := u.EscapedPath(); path.Clean(p) != p { // the mux would send the caller elsewhere
		return api.Errorf(api.CodeRouteNotFound, "", "write the path as /openapi.json does, without empty or dotted parts",
			"there is no %q",
			api.Shortened(p))
	}
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return api.Errorf(api.CodeInvalidParameter, "query", "write NAME=VALUE, joined by &, and escape other characters as in any URL", "%v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		field := api.Shortened(oneLine(name))
		if len(values[name]) > 1 {
			return api.Errorf(api.CodeInvalidParameter, field, "give it once", "it is given %d times", len(values[name]))
		}
		if values[name][0] == "" {
			return api.Errorf(api.CodeInvalidParameter, field, "give a value, or leave it out", "it has no value")
		}
	}
	return nil
}

// missingProperty tells which property the framework says is missing.
func missingProperty(message string) (name string, ok bool) {
	before, after, _ := strings.Cut(validation.MsgExpectedRequiredProperty, "%s")
	if !strings.HasPrefix(message, before) || !strings.HasSuffix(message, after) {
		return "", false
	}
	return strings.TrimSuffix(strings.TrimPrefix(message, before), after), true
}

// fieldOf turns the framework's place, such as body.rules[0].cidr or query.limit, into the request's spelling.
func fieldOf(location string) string {
	place, field, inside := strings.Cut(location, ".")
	switch place {
	case "body", "query", "path", "header":
		if inside {
			return field
		}
	}
	return location
}
