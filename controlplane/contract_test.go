package controlplane

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/culvert-net/culvert/api/client"
)

// contract holds what goes over the wire against the OpenAPI document: that every answer is one that the document describes, and
// every request that is not refused one that the document allows. Each lab has it in front of its server.
type contract struct {
	d        *document
	routes   *http.ServeMux // finds the operation of a request
	mu       sync.Mutex
	compiled map[string]*jsonschema.Schema
}

var theContract struct {
	once sync.Once
	c    *contract
	err  error
}

// contractOf is made once, of the document that the first server would serve: it is the same for all.
func contractOf(s *Server) (*contract, error) {
	theContract.once.Do(func() {
		text, err := s.huma.OpenAPI().MarshalJSON()
		if err != nil {
			theContract.err = err
			return
		}
		theContract.c, theContract.err = newContract(text)
	})
	return theContract.c, theContract.err
}

func newContract(text []byte) (*contract, error) {
	d, err := newDocument(text)
	if err != nil {
		return nil, err
	}
	c := &contract{d: d, routes: http.NewServeMux(), compiled: map[string]*jsonschema.Schema{}}
	for _, o := range d.operations() {
		c.routes.Handle(strings.ToUpper(o.method)+" "+o.path, operationHandler{o: o})
	}
	return c, nil
}

// operationHandler is how the mux names an operation.
type operationHandler struct {
	http.Handler
	o described
}

// wrap passes everything through and complains of what the document does not say.
func (c *contract) wrap(next http.Handler, complain func(string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		found, _ := c.routes.Handler(r)
		op, known := found.(operationHandler)
		if !known {
			next.ServeHTTP(w, r) // no operation; what there is instead is another test's business
			return
		}
		x := &exchange{ResponseWriter: w, c: c, o: op.o, complain: func(format string, args ...any) {
			complain(op.o.id + ": " + fmt.Sprintf(format, args...))
		}}
		kind, query := r.Header.Get("Content-Type"), r.URL.Query()
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(r.Body, &x.sent), r.Body}
		defer func() {
			x.finish()
			if x.status < http.StatusBadRequest {
				x.request(query, kind)
			}
		}()
		next.ServeHTTP(x, r)
	})
}

// exchange is one request and its answer, as they pass.
type exchange struct {
	http.ResponseWriter
	c        *contract
	o        described
	complain func(format string, args ...any)
	sent     bytes.Buffer // the request's body
	status   int
	body     bytes.Buffer // of the answer; of a stream, the line that is not complete
	lines    *jsonschema.Schema
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 && status >= http.StatusOK {
		x.status = status
		x.begin()
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (x *exchange) Write(data []byte) (int, error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	x.body.Write(data)
	if x.lines != nil {
		for {
			line, rest, ended := bytes.Cut(x.body.Bytes(), []byte{'\n'})
			if !ended {
				break
			}
			if len(line) > 0 { // else a keep-alive
				x.valid("a line", x.lines, line)
			}
			x.body.Next(x.body.Len() - len(rest))
		}
	}
	return x.ResponseWriter.Write(data)
}

// described is what the document says of the answer's status.
func (x *exchange) described() (where []string, response object) {
	status := strconv.Itoa(x.status)
	v, ok := sub(x.o.object, "responses")[status]
	if !ok {
		x.complain("the status %d is not described", x.status)
		return nil, nil
	}
	where = []string{"paths", x.o.path, x.o.method, "responses", status}
	if ref, ok := v.(object)["$ref"].(string); ok {
		where = strings.Split(strings.TrimPrefix(ref, "#/"), "/")
	}
	return where, x.c.d.follow(v)
}

// begin looks at the status and the headers.
func (x *exchange) begin() {
	_, response := x.described()
	for name, v := range sub(response, "headers") {
		h := x.c.d.follow(v)
		value := x.Header().Get(name)
		if value == "" {
			if required, _ := h["required"].(bool); required {
				x.complain("status %d: the header %s is missing", x.status, name)
			}
			continue
		}
		if _, err := strconv.ParseInt(value, 10, 64); err != nil && str(sub(h, "schema"), "type") == "integer" {
			x.complain("the header %s is no number: %q", name, value)
		}
	}
	for name := range x.Header() {
		_, ok := sub(response, "headers")[name]
		if response != nil && strings.HasPrefix(name, "Culvert-") && !ok {
			x.complain("status %d: the header %s is not described", x.status, name)
		}
	}
	if kind := x.kind(); kind == ndjson {
		x.lines = x.schema(kind)
	}
}

func (x *exchange) kind() string {
	kind, _, _ := mime.ParseMediaType(x.Header().Get("Content-Type"))
	return kind
}

// schema is that of the answer, nil where there is none.
func (x *exchange) schema(kind string) *jsonschema.Schema {
	where, response := x.described()
	if response == nil {
		return nil
	}
	if sub(response, "content")[kind] == nil {
		x.complain("status %d: the type %q is not described", x.status, kind)
		return nil
	}
	return x.compile(append(where, "content", kind, "schema")...)
}

func (x *exchange) compile(where ...string) *jsonschema.Schema {
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	key := pointer(where...)
	if x.c.compiled[key] == nil {
		s, err := x.c.d.schema(where...)
		if err != nil {
			x.complain("%v", err)
			return nil
		}
		x.c.compiled[key] = s
	}
	return x.c.compiled[key]
}

// finish looks at the body, when all of it is there.
func (x *exchange) finish() {
	switch {
	case x.status == 0, x.lines != nil: // it panicked, or each line was looked at
	case x.body.Len() == 0:
		if _, response := x.described(); len(sub(response, "content")) > 0 {
			x.complain("status %d: there is no body", x.status)
		}
	default:
		if s := x.schema(x.kind()); s != nil {
			x.valid(fmt.Sprintf("status %d", x.status), s, x.body.Bytes())
		}
	}
	if x.status < http.StatusBadRequest || x.body.Len() == 0 {
		return
	}
	var e struct{ Code string }
	_ = json.Unmarshal(x.body.Bytes(), &e) // what is no JSON was found above
	_, response := x.described()
	if !slices.Contains(strings.FieldsFunc(str(response, "description"), func(r rune) bool { return r == ' ' || r == ',' }), e.Code) &&
		!strings.HasSuffix(str(response, "description"), " "+e.Code+".") {
		x.complain("status %d: the code %s is not described", x.status, e.Code)
	}
}

// request looks at what was accepted.
func (x *exchange) request(query map[string][]string, kind string) {
	declared := map[string]bool{}
	for _, v := range items(x.o.object, "parameters") {
		p := x.c.d.follow(v)
		if str(p, "in") != "query" {
			continue
		}
		name := str(p, "name")
		declared[name] = true
		required, _ := p["required"].(bool)
		if _, given := query[name]; required && !given {
			x.complain("accepted without the parameter %s", name)
		}
	}
	for name := range query {
		if !declared[name] {
			x.complain("accepted the parameter %s, which is not described", name)
		}
	}
	kind, _, _ = mime.ParseMediaType(kind)
	body := sub(x.o.object, "requestBody")
	switch {
	case body == nil && x.sent.Len() > 0:
		x.complain("accepted a body, which is not described")
	case body == nil:
	case sub(body, "content")[kind] == nil:
		x.complain("accepted a body of the type %q", kind)
	default:
		s := x.compile("paths", x.o.path, x.o.method, "requestBody", "content", kind, "schema")
		if s == nil {
			return
		}
		parts := [][]byte{x.sent.Bytes()}
		if kind == ndjson {
			parts = bytes.Split(x.sent.Bytes(), []byte{'\n'})
		}
		for _, p := range parts {
			if kind != ndjson || len(bytes.TrimSpace(p)) > 0 {
				x.valid("accepted a body", s, p)
			}
		}
	}
}

func (x *exchange) valid(what string, s *jsonschema.Schema, text []byte) {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err == nil {
		err = s.Validate(v)
	}
	if err != nil {
		x.complain("%s: %v\n%s", what, err, text[:min(len(text), 500)])
	}
}

// TestContractFinds: a server that does what the document does not say is found.
func TestContractFinds(t *testing.T) {
	text, _ := servedDocument(t)
	c := must(newContract(text))(t)
	const vpc = `{"id":"vpc-1","account":"1","createdAt":"2026-01-02T03:04:05Z","revision":1,"cidr":"10.0.0.0/16","number":1}`
	answer := func(status int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			w.Header().Set("Content-Type", kind)
			w.Header().Set(client.HeaderRequestID, "req-1")
			if status < 400 && !strings.Contains(body, "no revision") {
				w.Header().Set(client.HeaderRevision, "1")
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	const plain = "application/json"
	for name, row := range map[string]struct {
		method, path, body string
		server             http.HandlerFunc
		want               string // "": nothing to complain of
	}{
		"a good answer":        {"GET", "/v1/vpcs/x", "", answer(200, plain, vpc), ""},
		"a good request":       {"POST", "/v1/vpcs?dryRun=true", `{"cidr":"10.0.0.0/16"}`, answer(200, plain, vpc), ""},
		"a good refusal":       {"GET", "/v1/vpcs/x", "", answer(404, plain, `{"code":"InvalidVpcID.NotFound","message":"x"}`), ""},
		"a good stream":        {"GET", "/v1/vpcs?watch=true", "", answer(200, ndjson, "\n"+`{"type":"Synced","revision":1}`+"\n"), ""},
		"a property too many":  {"GET", "/v1/vpcs/x", "", answer(200, plain, strings.Replace(vpc, "{", `{"colour":"red",`, 1)), "colour"},
		"a property too few":   {"GET", "/v1/vpcs/x", "", answer(200, plain, `{"id":"vpc-1"}`), "missing properties"},
		"another type":         {"GET", "/v1/vpcs/x", "", answer(200, plain, strings.Replace(vpc, `"number":1`, `"number":"1"`, 1)), "number"},
		"another media type":   {"GET", "/v1/vpcs/x", "", answer(200, "text/plain", vpc), "text/plain"},
		"another status":       {"GET", "/v1/vpcs/x", "", answer(201, plain, vpc), "201"},
		"a status of another":  {"GET", "/v1/vpcs/x", "", answer(409, plain, `{"code":"IncorrectState","message":"x"}`), "409"},
		"an unknown code":      {"GET", "/v1/vpcs/x", "", answer(404, plain, `{"code":"Gone","message":"x"}`), "code"},
		"a code of another":    {"GET", "/v1/vpcs/x", "", answer(404, plain, `{"code":"IncorrectState","message":"x"}`), "IncorrectState"},
		"a refusal in words":   {"GET", "/v1/vpcs/x", "", answer(404, plain, `no`), "invalid character"},
		"no body":              {"GET", "/v1/vpcs/x", "", answer(200, plain, ""), "no body"},
		"no revision":          {"GET", "/v1/vpcs/x", "", answer(200, plain, `"no revision"`), client.HeaderRevision},
		"a line of another":    {"GET", "/v1/vpcs?watch=true", "", answer(200, ndjson, vpc+"\n"), "a line"},
		"an unknown event":     {"GET", "/v1/vpcs?watch=true", "", answer(200, ndjson, `{"type":"Moved","revision":1}`+"\n"), "a line"},
		"accepts a bad body":   {"POST", "/v1/vpcs", `{"cidr":"10.0.0.0/33"}`, answer(200, plain, vpc), "accepted a body"},
		"accepts a property":   {"POST", "/v1/vpcs", `{"cidr":"10.0.0.0/16","x":1}`, answer(200, plain, vpc), "accepted a body"},
		"accepts a parameter":  {"GET", "/v1/vpcs/x?x=1", "", answer(200, plain, vpc), "the parameter x"},
		"demands no parameter": {"GET", "/v1/converged", "", answer(200, plain, `{"revision":1,"converged":true,"nodes":1}`), "without the parameter"},
		"accepts a body":       {"DELETE", "/v1/vpcs/x", `{}`, answer(200, plain, `{"revision":1}`), "accepted a body"},
	} {
		var complaints []string
		h := c.wrap(row.server, func(s string) { complaints = append(complaints, s) })
		r := httptest.NewRequest(row.method, row.path, strings.NewReader(row.body))
		if row.body != "" {
			r.Header.Set("Content-Type", plain)
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
		all := strings.Join(complaints, "\n")
		if row.want == "" && all != "" || !strings.Contains(all, row.want) {
			t.Errorf("%s: want %q, got %q", name, row.want, all)
		}
	}
}
