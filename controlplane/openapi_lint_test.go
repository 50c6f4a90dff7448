package controlplane

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write docs/openapi.yaml anew from what is served")

// object is a part of a decoded document.
type object = map[string]any

// document is the OpenAPI document as a reader has it.
type document struct {
	root     object
	compiler *jsonschema.Compiler
	mu       sync.Mutex // the compiler is not safe for concurrent use
}

const documentURL = "https://culvert.invalid/openapi.json"

func newDocument(text []byte) (*document, error) {
	root, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertContent()
	c.RegisterFormat(&jsonschema.Format{Name: "ip", Validate: func(v any) error {
		text, ok := v.(string)
		if !ok {
			return nil
		}
		_, err := netip.ParseAddr(text)
		return err
	}})
	if err := c.AddResource(documentURL, root); err != nil {
		return nil, err
	}
	o, _ := root.(object)
	return &document{root: o, compiler: c}, nil
}

// pointer is a JSON pointer, as the fragment of a URL.
func pointer(parts ...string) string {
	escape := strings.NewReplacer("~", "~0", "/", "~1", "%", "%25", "{", "%7B", "}", "%7D")
	out := "#"
	for _, p := range parts {
		out += "/" + escape.Replace(p)
	}
	return out
}

// schema compiles the schema at a place.
func (d *document) schema(parts ...string) (*jsonschema.Schema, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.compiler.Compile(documentURL + pointer(parts...))
}

// at is what a reference within the document leads to, nil if nothing.
func (d *document) at(ref string) any {
	var v any = d.root
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for _, part := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
		o, _ := v.(object)
		v = o[unescape.Replace(part)]
	}
	return v
}

// follow replaces a reference by what it leads to.
func (d *document) follow(v any) object {
	o, _ := v.(object)
	if ref, ok := o["$ref"].(string); ok {
		o, _ = d.at(ref).(object)
	}
	return o
}

// described is an operation of the document.
type described struct {
	method, path, id string
	object
}

func (d *document) operations() (out []described) {
	paths, _ := d.root["paths"].(object)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item, _ := paths[path].(object)
		for _, method := range slices.Sorted(maps.Keys(item)) {
			o, _ := item[method].(object)
			out = append(out, described{method, path, str(o, "operationId"), o})
		}
	}
	return out
}

func str(o object, key string) string {
	s, _ := o[key].(string)
	return s
}

func sub(o object, key string) object {
	s, _ := o[key].(object)
	return s
}

func items(o object, key string) []any {
	s, _ := o[key].([]any)
	return s
}

// each visits every object below v.
func each(where string, v any, f func(where string, o object)) {
	switch v := v.(type) {
	case object:
		f(where, v)
		for key, below := range v {
			each(where+"/"+key, below, f)
		}
	case []any:
		for i, below := range v {
			each(fmt.Sprintf("%s/%d", where, i), below, f)
		}
	}
}

// rule is one of the lint.
type rule struct {
	name  string
	check func(d *document, complain func(where, what string))
	// spoil makes a document that the rule must complain of.
	spoil func(root object)
}

// verbs are those that AWS's APIs use for such operations, and the methods that go with them.
var verbs = map[string]string{"create": "post", "add": "post", "authorize": "post", "register": "post", "deregister": "post",
	"associate": "post", "disassociate": "post", "change": "post", "verify": "post",
	"allow": "post", "disallow": "post", "accept": "post", "reject": "post", "drain": "post", "undrain": "post", "join": "post",
	"leave": "post", "renew": "post", "rotate": "post", "report": "post", "send": "post", "get": "get", "list": "get", "query": "get",
	"explain": "get", "stream": "get", "modify": "patch", "delete": "delete", "remove": "delete", "revoke": "delete"}

var kebab = regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)

func operationOf(root object, path, method string) object {
	return sub(sub(sub(root, "paths"), path), method)
}

var documentRules = []rule{
	{"the document is valid OpenAPI 3.1", checkMeta, func(root object) { delete(sub(root, "info"), "title") }},
	{"every schema is valid JSON Schema", checkSchemas, func(root object) {
		sub(sub(sub(root, "components"), "schemas"), "VPC")["type"] = "record"
	}},
	{"references lead somewhere", func(d *document, complain func(where, what string)) {
		each("", d.root, func(where string, o object) {
			if ref, ok := o["$ref"].(string); ok && d.at(ref) == nil {
				complain(where, "leads to nothing: "+ref)
			}
		})
	}, func(root object) { delete(sub(sub(root, "components"), "schemas"), "Block") }},
	{"operation ids are unique, in kebab case, and begin with a verb that goes with the method", checkIDs, func(root object) {
		operationOf(root, "/v1/vpcs", "post")["operationId"] = "makeVpc"
	}},
	{"operations have summary, description and described tags", checkWords, func(root object) {
		delete(operationOf(root, "/v1/vpcs", "get"), "description")
	}},
	{"operations say how the caller authenticates", checkSecurity, func(root object) {
		delete(operationOf(root, "/v1/vpcs", "get"), "security")
	}},
	{"parameters are described, and those of paths are complete", checkParameters, func(root object) {
		operationOf(root, "/v1/vpcs/{id}", "get")["parameters"] = []any{}
	}},
	{"schemas and properties are described", func(d *document, complain func(where, what string)) {
		for name, s := range sub(sub(d.root, "components"), "schemas") {
			if str(s.(object), "description") == "" {
				complain(name, "is not described")
			}
			for property, p := range sub(s.(object), "properties") {
				if str(p.(object), "description") == "" {
					complain(name+"."+property, "is not described")
				}
			}
		}
	}, func(root object) { delete(sub(sub(sub(root, "components"), "schemas"), "VPC"), "description") }},
	{"responses have schemas and descriptions, and every operation can refuse", checkResponses, func(root object) {
		delete(sub(operationOf(root, "/v1/vpcs", "get"), "responses"), "400")
	}},
	{"bodies have examples that are valid", checkExamples, func(root object) {
		body := sub(sub(operationOf(root, "/v1/vpcs", "post"), "requestBody"), "content")
		sub(sub(body, "application/json"), "example")["cidr"] = "10.0.0.0/33"
	}},
	{"every component is used", func(d *document, complain func(where, what string)) {
		used := map[string]bool{}
		each("", d.root, func(_ string, o object) { used[str(o, "$ref")] = true })
		for section, of := range sub(d.root, "components") {
			for name := range of.(object) {
				if section != "securitySchemes" && !used["#/components/"+section+"/"+name] {
					complain("components/"+section+"/"+name, "is not used")
				}
			}
		}
	}, func(root object) { sub(sub(root, "components"), "schemas")["Spare"] = object{"description": "x"} }},
	{"names of components are unique", checkNames, func(root object) {
		sub(sub(root, "components"), "headers")["VPC"] = object{"description": "x"}
	}},
	{"servers are there", func(d *document, complain func(where, what string)) {
		if len(items(d.root, "servers")) == 0 {
			complain("servers", "there are none")
		}
	}, func(root object) { delete(root, "servers") }},
}

// checkNames: generators of clients make one name space of all sections.
func checkNames(d *document, complain func(where, what string)) {
	of := map[string]string{}
	for section, names := range sub(d.root, "components") {
		if section == "securitySchemes" { // no types are made of these
			continue
		}
		for name := range names.(object) {
			if other := of[strings.ToLower(name)]; other != "" {
				complain(name, "is in "+section+" and in "+other)
			}
			of[strings.ToLower(name)] = section
		}
	}
}

func checkMeta(d *document, complain func(where, what string)) {
	text, err := os.ReadFile("testdata/openapi-3.1.schema.json")
	if err != nil {
		complain("", err.Error())
		return
	}
	meta, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		complain("", err.Error())
		return
	}
	c := jsonschema.NewCompiler()
	const url = "https://spec.openapis.org/oas/3.1/schema/2022-10-07"
	if err = c.AddResource(url, meta); err == nil {
		var s *jsonschema.Schema
		if s, err = c.Compile(url); err == nil {
			err = s.Validate(any(d.root))
		}
	}
	if err != nil {
		complain("", err.Error())
	}
}

func checkSchemas(d *document, complain func(where, what string)) {
	for name := range sub(sub(d.root, "components"), "schemas") {
		if _, err := d.schema("components", "schemas", name); err != nil {
			complain(name, err.Error())
		}
	}
}

func checkIDs(d *document, complain func(where, what string)) {
	seen := map[string]bool{}
	for _, o := range d.operations() {
		verb, _, _ := strings.Cut(o.id, "-")
		method, known := verbs[verb]
		switch {
		case seen[o.id]:
			complain(o.id, "is there twice")
		case !kebab.MatchString(o.id):
			complain(o.id, "is not in kebab case")
		case !known, method != o.method && o.id != "revoke-node":
			complain(o.id, "does not go with "+o.method)
		}
		seen[o.id] = true
	}
}

func checkWords(d *document, complain func(where, what string)) {
	tags, used := map[string]bool{}, map[string]bool{}
	for _, t := range items(d.root, "tags") {
		tags[str(t.(object), "name")] = str(t.(object), "description") != ""
	}
	for _, o := range d.operations() {
		if str(o.object, "summary") == "" || str(o.object, "description") == "" {
			complain(o.id, "has no summary or description")
		}
		for _, t := range items(o.object, "tags") {
			used[t.(string)] = true
			if !tags[t.(string)] {
				complain(o.id, "has a tag that is not described: "+t.(string))
			}
		}
		if len(items(o.object, "tags")) != 1 {
			complain(o.id, "has not one tag")
		}
	}
	for t := range tags {
		if !used[t] {
			complain(t, "is a tag of nothing")
		}
	}
}

func checkSecurity(d *document, complain func(where, what string)) {
	schemes := sub(sub(d.root, "components"), "securitySchemes")
	for _, o := range d.operations() {
		security := items(o.object, "security")
		if len(security) == 0 && o.id != "join" {
			complain(o.id, "anybody may")
		}
		for _, s := range security {
			for name := range s.(object) {
				if schemes[name] == nil {
					complain(o.id, "has an unknown security "+name)
				}
			}
		}
	}
}

func checkParameters(d *document, complain func(where, what string)) {
	for _, o := range d.operations() {
		inPath := map[string]bool{}
		for _, v := range items(o.object, "parameters") {
			p := d.follow(v)
			if str(p, "description") == "" || p["schema"] == nil {
				complain(o.id, "has a parameter without description or schema: "+str(p, "name"))
			}
			if str(p, "in") == "path" {
				inPath[str(p, "name")] = true
			}
		}
		var named []string
		for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(o.path, -1) {
			named = append(named, m[1])
		}
		slices.Sort(named)
		if got := slices.Sorted(maps.Keys(inPath)); !slices.Equal(got, named) {
			complain(o.id, fmt.Sprintf("has %v in its path, and describes %v", named, got))
		}
	}
}

func checkResponses(d *document, complain func(where, what string)) {
	for _, o := range d.operations() {
		responses := sub(o.object, "responses")
		for status, v := range responses {
			r := d.follow(v)
			if str(r, "description") == "" || status == "default" {
				complain(o.id+" "+status, "is not described")
			}
			for kind, m := range sub(r, "content") {
				if sub(m.(object), "schema") == nil {
					complain(o.id+" "+status, "has no schema for "+kind)
				}
			}
			if len(sub(r, "content")) == 0 && status != "204" {
				complain(o.id+" "+status, "has no content")
			}
			if status >= "400" && str(sub(sub(sub(r, "content"), "application/json"), "schema"), "$ref") != "#/components/schemas/Error" {
				complain(o.id+" "+status, "is no Error")
			}
		}
		for _, status := range []string{"400", "401", "429", "500", "503"} {
			if responses[status] == nil {
				complain(o.id, "cannot answer "+status)
			}
		}
	}
}

func checkExamples(d *document, complain func(where, what string)) {
	for _, o := range d.operations() {
		body, ok := sub(sub(o.object, "requestBody"), "content")["application/json"].(object)
		if !ok {
			continue
		}
		if body["example"] == nil {
			complain(o.id, "has no example")
			continue
		}
		s, err := d.schema("paths", o.path, o.method, "requestBody", "content", "application/json", "schema")
		if err == nil {
			err = s.Validate(body["example"])
		}
		if err != nil {
			complain(o.id, "example: "+err.Error())
		}
	}
}

// servedDocument is what the server serves, with a version that stays.
func servedDocument(t testing.TB) (asJSON, asYAML []byte) {
	t.Helper()
	l := startLab(t, func(c *Config) { c.Version = "0.0.0" })
	r := l.rawClient(nil)
	return r.do("GET", "/openapi.json", "", "").body, r.do("GET", "/openapi.yaml", "", "").body
}

func lint(d *document, rules []rule) (complaints []string) {
	for _, r := range rules {
		r.check(d, func(where, what string) { complaints = append(complaints, r.name+": "+where+": "+what) })
	}
	slices.Sort(complaints)
	return complaints
}

// TestOpenAPILint holds the document that is served against the rules.
func TestOpenAPILint(t *testing.T) {
	text, _ := servedDocument(t)
	d := must(newDocument(text))(t)
	for _, c := range lint(d, documentRules) {
		t.Error(c)
	}
	for _, r := range documentRules {
		var root object
		if err := json.Unmarshal(text, &root); err != nil {
			t.Fatal(err)
		}
		r.spoil(root)
		spoilt := must(newDocument(must(json.Marshal(root))(t)))(t)
		if len(lint(spoilt, []rule{r})) == 0 {
			t.Errorf("the rule %q finds nothing in a document that breaks it", r.name)
		}
	}
}

// TestOpenAPIWords: what is said of something that there is not would mislead who looks for it.
func TestOpenAPIWords(t *testing.T) {
	text, _ := servedDocument(t)
	d := must(newDocument(text))(t)
	ids := map[string]bool{}
	for _, o := range d.operations() {
		ids[o.id] = true
	}
	for id := range operationWords {
		if !ids[id] {
			t.Errorf("operationWords has %s", id)
		}
	}
	kinds, fields := map[string]bool{}, map[string]bool{}
	for name, s := range sub(sub(d.root, "components"), "schemas") {
		kind := schemaKind(name)
		kinds[kind] = true
		for property := range sub(s.(object), "properties") {
			if own := kind + "." + property; fieldWords[own] != "" {
				fields[own] = true
			} else {
				fields[property] = true
			}
		}
	}
	for name := range schemaWords {
		if !kinds[name] {
			t.Errorf("schemaWords has %s", name)
		}
	}
	for name := range fieldWords {
		if !fields[name] {
			t.Errorf("fieldWords has %s", name)
		}
	}
}

// TestOpenAPIFile: docs/openapi.yaml is what the server serves, in both forms. -update writes it.
func TestOpenAPIFile(t *testing.T) {
	asJSON, asYAML := servedDocument(t)
	const file = "../docs/openapi.yaml"
	if *update {
		if err := os.WriteFile(file, asYAML, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have := must(os.ReadFile(file))(t)
	if !bytes.Equal(have, asYAML) {
		t.Errorf("%s is not what is served: go test ./controlplane -run TestOpenAPIFile -update", file)
	}
	var a, b any
	if err := json.Unmarshal(asJSON, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(must(yaml.YAMLToJSON(asYAML))(t), &b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(must(json.Marshal(a))(t), must(json.Marshal(b))(t)) {
		t.Error("/openapi.json and /openapi.yaml differ")
	}
}
