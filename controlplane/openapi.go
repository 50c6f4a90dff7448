package controlplane

import (
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

// What is said here completes the OpenAPI document that the framework makes of the Go types; it decides nothing. The words are in
// openapi_operations.go and openapi_fields.go: a test demands one for each operation, parameter and property, and that what is
// answered is what the document says.

const apiDescription = `The control plane of a Culvert mesh: private networks and private services across machines
that you own.

**Who calls.** Users send ` + "`Authorization: Bearer KEY`" + `; each key is bound to one account, or is an
administrator's, who names the account to act for in the header Culvert-Account. Nodes authenticate with the
certificate that they got when they joined. The server's own certificate is issued by its CA (DATA-DIR/ca.pem) for the
name server.culvert.internal, whatever address is dialled.

**Names.** Where a request names another resource, it gives the id or, where that is unambiguous among the caller's
own, the name. What belongs to another account is answered exactly as what does not exist.

**Refusals.** Every status of 400 and above carries an Error: compare its code, show its message and remedy. With
500 and 503 it may have happened or not; else nothing was changed.

**Changes.** Each is one transaction. With dryRun=true everything is checked and nothing changed. The same
Idempotency-Key and request within 24 hours get the first answer again. The header Culvert-Revision says at which
revision of the mesh the answer is true: GET /v1/converged tells when the nodes have applied it.

**Lists** are sorted by account, name and id, and are whole. With watch=true a list goes on as a stream of events.

**Streams** are newline-delimited JSON (application/x-ndjson): the schema is that of each line, and empty lines are
keep-alives.

Properties that are not described, and query parameters too, are refused.`

// tagWords describes the groups of operations.
var tagWords = map[string]string{
	"accounts":              "Tenants, and the DNS domains that are theirs.",
	"api-keys":              "Users' credentials.",
	"audit":                 "Who did what.",
	"catalogue":             "What others offer the caller.",
	"converged":             "Whether the nodes have applied a change.",
	"domains":               "DNS domains that accounts prove to be theirs.",
	"hosted-zones":          "DNS records for an account's own VPCs.",
	"reports":               "What somebody should look at each day.",
	"flow-logs":             "Which flow records are delivered, in which form, and whereto.",
	"resolver-rules":        "Which servers answer a domain's names.",
	"firewall-rule-groups":  "Which names workloads may look up.",
	"firewall-domain-lists": "Domains that firewall rules share.",
	"query-logs":            "Whose DNS questions are recorded.",
	"queries":               "Records of DNS questions.",
	"endpoints":             "A consumer's attachments to services.",
	"enis":                  "Network interfaces: one address each in a subnet.",
	"explain":               "Why a flow passes or does not.",
	"whois":                 "Whose an address in the tunnel is.",
	"flows":                 "Records of flows.",
	"evidence":              "What nodes sealed of their logs, and the Merkle log.",
	"log-key":               "What evidence is checked with.",
	"retention":             "How long things are kept.",
	"legal-holds":           "What is kept whatever the retention.",
	"load-balancers":        "What stands in front of a provider's targets.",
	"node":                  "What nodes call. Nobody needs it for anything else.",
	"nodes":                 "The machines of the mesh.",
	"security-groups":       "Stateful rules that only allow.",
	"services":              "What a provider offers, and who may use it.",
	"status":                "How the server is.",
	"subnets":               "Parts of a VPC, each in one zone.",
	"target-groups":         "Receivers behind a load balancer.",
	"target-health":         "How targets are, as the nodes that host them say.",
	"tokens":                "What lets a machine join, once.",
	"vpcs":                  "Isolated networks, each with its own address plan.",
}

// statusWords describe the statuses of refusals.
var statusWords = map[int]string{
	http.StatusBadRequest:            "The request is not what it should be.",
	http.StatusUnauthorized:          "The server does not know the caller.",
	http.StatusForbidden:             "The caller may not do this.",
	http.StatusNotFound:              "Something that the request names does not exist, or not for this caller.",
	http.StatusConflict:              "The state of things stands against it.",
	http.StatusGone:                  "The server does not know any more what changed since then.",
	http.StatusRequestEntityTooLarge: "The body is too large.",
	http.StatusTooManyRequests:       "The caller asks more often than it may: after Retry-After seconds it may again.",
	http.StatusInternalServerError:   "The server failed; its log has more under the request id.",
	http.StatusServiceUnavailable: "The server cannot do it now, and it may or may not have happened: look, " +
		"then try again.",
}

// forAdmins marks an operation, for the description, that only administrators may call.
const forAdmins = "forAdmins"

func errorResponse(status int) string { return "Error" + strconv.Itoa(status) }

// describe completes the document.
func (s *Server) describe() {
	doc := s.huma.OpenAPI()
	doc.Info.Description = apiDescription
	doc.Info.License = &huma.License{Name: "Apache 2.0", Identifier: "Apache-2.0"}
	doc.Servers = []*huma.Server{{URL: "https://{address}", Description: "The server, also on a Unix socket if it " +
		"has one",
		Variables: map[string]*huma.ServerVariable{"address": {Default: fmt.Sprintf("%s:%d", client.ServerName, api.DefaultServerPort),
			Description: "HOST:PORT that the server listens at"}}}}
	for _, name := range slices.Sorted(maps.Keys(tagWords)) {
		doc.Tags = append(doc.Tags, &huma.Tag{Name: name, Description: tagWords[name]})
	}
	s.describeLines(doc)
	describeComponents(doc.Components)
	for _, item := range doc.Paths {
		for _, o := range []*huma.Operation{item.Get, item.Post, item.Patch, item.Delete} {
			if o != nil {
				describeOperation(o)
			}
		}
	}
	for name, schema := range doc.Components.Schemas.Map() {
		describeSchema(name, schema)
	}
}

// describeLines says what the lines of streams are.
func (s *Server) describeLines(doc *huma.OpenAPI) {
	schemas := doc.Components.Schemas
	of := func(t reflect.Type) *huma.MediaType {
		return &huma.MediaType{Schema: schemas.Schema(t, true, t.Name())}
	}
	flow, record := of(reflect.TypeFor[api.FlowEnvelope]()), of(reflect.TypeFor[api.FlowRecord]())
	question := of(reflect.TypeFor[api.QueryRecord]())
	line := of(reflect.TypeFor[api.QueryLine]())
	schemas.Map()["FlowEnvelope"].Properties["record"] = &huma.Schema{AnyOf: []*huma.Schema{record.Schema, line.Schema, {
		Type: huma.TypeObject, Required: []string{"seal"}, Description: "A seal, as docs/EVIDENCE.md has it.",
		Properties: map[string]*huma.Schema{"seal": {Type: huma.TypeObject, AdditionalProperties: true}},
	}}}
	doc.Paths["/v1/queries"].Get.Responses["200"].Content[ndjson] = question
	doc.Paths["/v1/flows"].Get.Responses["200"].Content[ndjson] = flow
	doc.Paths["/v1/evidence"].Get.Responses["200"].Content[ndjson] = of(reflect.TypeFor[api.EvidencePart]())
	doc.Paths["/v1/node/view"].Get.Responses["200"].Content[ndjson] = of(reflect.TypeFor[api.SignedView]())
	sent := doc.Paths["/v1/node/flows"].Post.RequestBody
	sent.Description = "One record per line"
	sent.Content[ndjson] = flow
}

// describeComponents adds what several operations share.
func describeComponents(c *huma.Components) {
	c.Parameters = map[string]*huma.Param{"ActingAccount": {Name: client.HeaderAccount, In: "header",
		Description: "The account to act for, id or name; only administrators have a " +
			"choice.", Schema: &huma.Schema{Type: huma.TypeString}}}
	c.Headers = map[string]*huma.Param{
		"RequestId": {Description: "Names this request in the server's log and in the audit log.", Required: true,
			Schema: &huma.Schema{Type: huma.TypeString}},
		"Revision": {Description: "The mesh's revision at which the answer is true.", Required: true,
			Schema: &huma.Schema{Type: huma.TypeInteger, Format: "int64"}},
		"ListRevision": {Description: "Revision of the picture that the list was read from; a watch says it in its events.",
			Schema: &huma.Schema{Type: huma.TypeInteger, Format: "int64"}},
		"DryRun": {Description: "true where nothing was changed because the caller asked for that.",
			Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"true"}}},
		"RetryAfter": {Description: "Seconds until the caller may ask again.", Required: true,
			Schema: &huma.Schema{Type: huma.TypeInteger}},
	}
	c.Responses = map[string]*huma.Response{}
	for status, words := range statusWords {
		codes := api.ErrorCodes(status)
		names := make([]string, len(codes))
		for i, code := range codes {
			names[i] = string(code)
		}
		r := &huma.Response{Description: words + " Codes: " + strings.Join(names, ", ") + ".",
			Headers: map[string]*huma.Param{client.HeaderRequestID: {Ref: "#/components/headers/RequestId"}},
			Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Ref: "#/components/schemas/Error"}}}}
		if status == http.StatusTooManyRequests {
			r.Headers["Retry-After"] = &huma.Param{Ref: "#/components/headers/RetryAfter"}
		}
		c.Responses[errorResponse(status)] = r
	}
}

func describeOperation(o *huma.Operation) {
	words := operationWords[o.OperationID]
	o.Description = words.description
	if o.RequestBody != nil && words.example != nil {
		for _, m := range o.RequestBody.Content {
			m.Example = words.example
		}
	}
	byKey := slices.ContainsFunc(o.Security, func(s map[string][]string) bool { return s["apiKey"] != nil })
	if byKey {
		o.Parameters = append(o.Parameters, &huma.Param{Ref: "#/components/parameters/ActingAccount"})
	}
	for _, p := range o.Parameters {
		if p.Schema != nil {
			p.Schema.Description = "" // the parameter has it
		}
	}
	good := o.Responses["200"]
	if good == nil { // where there is nothing to say
		good = o.Responses["204"]
	}
	if good.Description == "OK" || good.Description == "No Content" {
		good.Description = "Done"
	}
	good.Headers = goodHeaders(good)
	delete(o.Responses, "default")
	for _, status := range refusedWith(o, byKey) {
		o.Responses[strconv.Itoa(status)] = &huma.Response{Ref: "#/components/responses/" + errorResponse(status)}
	}
}

// goodHeaders replaces the headers of an answer by what all share.
func goodHeaders(r *huma.Response) map[string]*huma.Param {
	out := map[string]*huma.Param{client.HeaderRequestID: {Ref: "#/components/headers/RequestId"}}
	for name := range r.Headers {
		shared := strings.ReplaceAll(strings.TrimPrefix(name, "Culvert-"), "-", "")
		if name == client.HeaderRevision && r.Content[ndjson] != nil {
			shared = "ListRevision"
		}
		out[name] = &huma.Param{Ref: "#/components/headers/" + shared}
	}
	return out
}

// refusedWith are the statuses that an operation may refuse with.
func refusedWith(o *huma.Operation, byKey bool) []int {
	out := []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusServiceUnavailable}
	changes := o.Method != http.MethodGet
	watched := o.Responses["200"] != nil && len(o.Responses["200"].Content) > 1
	if byKey { // the account to act for may not exist
		out = append(out, http.StatusNotFound)
	}
	if changes || !byKey || o.Metadata[forAdmins] == true {
		out = append(out, http.StatusForbidden)
	}
	if changes || watched {
		out = append(out, http.StatusConflict)
	}
	if watched {
		out = append(out, http.StatusGone)
	}
	if o.RequestBody != nil {
		out = append(out, http.StatusRequestEntityTooLarge)
	}
	return out
}

func describeSchema(name string, s *huma.Schema) {
	s.Description = schemaWords[schemaKind(name)]
	for property, p := range s.Properties {
		p.Description = fieldWords[schemaKind(name)+"."+property]
		if p.Description == "" {
			p.Description = fieldWords[property]
		}
	}
	if strings.HasSuffix(name, "Request") { // the framework takes null for a property that may be left out as if it were
		for property, p := range s.Properties {
			p.Nullable = p.Nullable || p.Ref == "" && !slices.Contains(s.Required, property)
		}
	}
	for property, values := range enums[name] {
		s.Properties[property].Enum = values
	}
}

// schemaKind joins the lists of all kinds, and their events.
func schemaKind(name string) string {
	for _, kind := range []string{"List", "WatchEvent"} {
		if of, ok := strings.CutPrefix(name, kind); ok && of != "" && unicode.IsUpper(rune(of[0])) { // a Listener is no list
			return kind
		}
	}
	return name
}

// anyOf makes values of an enumeration.
func anyOf[T ~string](values ...T) []any {
	out := make([]any, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}

var (
	connectionStates = anyOf(api.PendingAcceptance, api.Pending, api.Available, api.Deleting, api.Deleted, api.Rejected, api.Failed,
		api.Expired)
	addressTypes = anyOf(api.IPv4Only, api.DualStack, api.IPv6Only)

	nodeStates = anyOf(api.NodeReady, api.NodeDraining, api.NodeRevoked)
)

// enums are the values that properties of answers can have. What requests say is checked by the resources' own validation, which
// has better words than a schema.
var enums = map[string]map[string][]any{
	"Error":      {"code": anyOf(api.ErrorCodes(0)...)},
	"ENI":        {"type": anyOf(api.ENIWorkload, api.ENIEndpoint, api.ENILoadBalancer), "ipAddressType": addressTypes},
	"Endpoint":   {"state": connectionStates, "ipAddressType": addressTypes},
	"Connection": {"state": connectionStates},
	"Node":       {"state": nodeStates},
	"NodeReport": {"state": nodeStates},
	"Service": {"state": anyOf(api.ServicePending, api.ServiceAvailable, api.ServiceDeleting, api.ServiceDeleted,
		api.ServiceFailed), "clientIdentity": anyOf(api.IdentityLoadBalancer, api.IdentityProxyProtocol,
		api.IdentityClientAddress)},
	"Rule":            {"protocol": anyOf(api.TCP, api.UDP, api.ICMP, api.ICMPv6, api.All)},
	"Listener":        {"protocol": anyOf(api.TCP, api.UDP)},
	"TargetGroup":     {"protocol": anyOf(api.TCP, api.UDP)},
	"HealthCheck":     {"protocol": anyOf(api.HealthTCP, api.HealthHTTP, api.HealthHTTPS, api.HealthGRPC)},
	"DescribedTarget": {"state": anyOf(api.TargetStates...)},
}
