package api

import (
	"fmt"
	"slices"
	"strings"
)

// ErrorCode names what went wrong, in AWS's words where AWS has one. Clients compare codes, people read Message and Remedy.
type ErrorCode string

// Error codes. Those that end in ".NotFound" or "NotFound" say that an object does not exist for the caller: an object of
// another account answers with the same code and the same sentence.
const (
	CodeAuthFailure            ErrorCode = "AuthFailure"
	CodeUnauthorized           ErrorCode = "UnauthorizedOperation"
	CodeInvalidParameter       ErrorCode = "InvalidParameterValue"
	CodeMissingParameter       ErrorCode = "MissingParameter"
	CodeInvalidCombination     ErrorCode = "InvalidParameterCombination"
	CodeDependencyViolation    ErrorCode = "DependencyViolation"
	CodeIncorrectState         ErrorCode = "IncorrectState"
	CodeLimitExceeded          ErrorCode = "ResourceLimitExceeded"
	CodeDuplicateName          ErrorCode = "ResourceAlreadyExists"
	CodeAmbiguousName          ErrorCode = "AmbiguousName"
	CodeIdempotentMismatch     ErrorCode = "IdempotentParameterMismatch"
	CodeVPCRange               ErrorCode = "InvalidVpc.Range"
	CodeSubnetRange            ErrorCode = "InvalidSubnet.Range"
	CodeSubnetConflict         ErrorCode = "InvalidSubnet.Conflict"
	CodeAddressInUse           ErrorCode = "InvalidIPAddress.InUse"
	CodeAddressInvalid         ErrorCode = "InvalidIPAddress.Malformed"
	CodeAddressNotFound        ErrorCode = "InvalidIPAddress.NotFound"
	CodeNoFreeAddresses        ErrorCode = "InsufficientFreeAddressesInSubnet"
	CodeENIInUse               ErrorCode = "InvalidNetworkInterface.InUse"
	CodePermissionDuplicate    ErrorCode = "InvalidPermission.Duplicate"
	CodePermissionNotFound     ErrorCode = "InvalidPermission.NotFound"
	CodeServiceName            ErrorCode = "InvalidServiceName"
	CodeConflictingDomain      ErrorCode = "ConflictingDomainExists"
	CodeDomainNotOwned         ErrorCode = "PrivateDnsNameNotOwned"
	CodeLoadBalancerInUse      ErrorCode = "LoadBalancerInUse"
	CodeTokenInvalid           ErrorCode = "InvalidJoinToken"
	CodeNodeRevoked            ErrorCode = "NodeRevoked"
	CodeNodeForgotten          ErrorCode = "NodeForgotten"
	CodeCertificateInvalid     ErrorCode = "InvalidCertificate"
	CodeRequestTooLarge        ErrorCode = "RequestEntityTooLarge"
	CodeRequestLimit           ErrorCode = "RequestLimitExceeded"
	CodeUnavailable            ErrorCode = "Unavailable"
	CodeRevisionExpired        ErrorCode = "InvalidRevision.Expired"
	CodeInternal               ErrorCode = "InternalError"
	CodeRouteNotFound          ErrorCode = "InvalidRoute.NotFound"
	CodeAccountNotFound        ErrorCode = "InvalidAccountID.NotFound"
	CodeVPCNotFound            ErrorCode = "InvalidVpcID.NotFound"
	CodeSubnetNotFound         ErrorCode = "InvalidSubnetID.NotFound"
	CodeENINotFound            ErrorCode = "InvalidNetworkInterfaceID.NotFound"
	CodeGroupNotFound          ErrorCode = "InvalidGroup.NotFound"
	CodeTargetGroupNotFound    ErrorCode = "TargetGroupNotFound"
	CodeLoadBalancerNotFound   ErrorCode = "LoadBalancerNotFound"
	CodeListenerNotFound       ErrorCode = "ListenerNotFound"
	CodeServiceNotFound        ErrorCode = "InvalidVpcEndpointServiceId.NotFound"
	CodeEndpointNotFound       ErrorCode = "InvalidVpcEndpointId.NotFound"
	CodeConnectionNotFound     ErrorCode = "InvalidVpcEndpointConnectionId.NotFound"
	CodeNodeNotFound           ErrorCode = "InvalidNodeID.NotFound"
	CodeTokenNotFound          ErrorCode = "InvalidTokenID.NotFound"
	CodeKeyNotFound            ErrorCode = "InvalidKeyID.NotFound"
	CodeDomainNotFound         ErrorCode = "InvalidDomain.NotFound"
	CodeTargetNotFound         ErrorCode = "InvalidTarget.NotFound"
	CodeHostedZoneNotFound     ErrorCode = "NoSuchHostedZone"
	CodeResolverRuleNotFound   ErrorCode = "InvalidResolverRule.NotFound"
	CodeFirewallNotFound       ErrorCode = "InvalidFirewallRuleGroup.NotFound"
	CodeDomainListNotFound     ErrorCode = "InvalidFirewallDomainList.NotFound"
	CodeFirewallRuleNotFound   ErrorCode = "InvalidFirewallRule.NotFound"
	CodeFlowLogNotFound        ErrorCode = "InvalidFlowLogId.NotFound"
	CodeFirewallInUse          ErrorCode = "FirewallRuleGroupAssociation.Duplicate"
	CodeLegalHoldNotFound      ErrorCode = "InvalidLegalHold.NotFound"
	CodeLogKeyUnknown          ErrorCode = "LogKeyUnknown" // a node tells its key, and sends again
	CodeQueryLogNotFound       ErrorCode = "InvalidQueryLog.NotFound"
	CodeRecordNotFound         ErrorCode = "NoSuchRecordSet"
	CodeReportNotFound         ErrorCode = "NoSuchReport"
	CodeDomainNotVerified      ErrorCode = "PrivateDnsNameNotVerified"
	CodePrincipalNotFound      ErrorCode = "InvalidPrincipal.NotFound"
	CodeOutOfNumbers           ErrorCode = "InsufficientNumbers"
	CodeSecretNotReplayable    ErrorCode = "IdempotentSecretNotReplayable"
	CodeUnderlayAddressMissing ErrorCode = "UnderlayAddressMissing"
)

// Error is how the API refuses. It is the body of every answer with a status of 400 and above.
type Error struct {
	Code      ErrorCode `json:"code"`
	Field     string    `json:"field,omitempty"`     // the parameter at fault, in the request's JSON spelling
	Message   string    `json:"message"`             // what is wrong, a sentence
	Remedy    string    `json:"remedy,omitempty"`    // what to do about it, a sentence
	RequestID string    `json:"requestId,omitempty"` // the same id is in the audit event and in the server's log
}

// Errorf makes an Error; the message is formatted as by fmt.Sprintf.
func Errorf(code ErrorCode, field, remedy, format string, args ...any) *Error {
	return &Error{Code: code, Field: field, Remedy: remedy, Message: fmt.Sprintf(format, args...)}
}

// Error joins field, message and remedy to one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Code))
	b.WriteString(": ")
	if e.Field != "" {
		b.WriteString(e.Field)
		b.WriteString(": ")
	}
	b.WriteString(e.Message)
	if e.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(e.Remedy)
	}
	return b.String()
}

// Is reports whether target is an *Error of the same code; so errors.Is(err, &api.Error{Code: …}) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// codeStatus has every code.
var codeStatus = map[ErrorCode]int{
	CodeInvalidParameter: 400, CodeMissingParameter: 400, CodeInvalidCombination: 400, CodeAmbiguousName: 400,
	CodeVPCRange: 400, CodeSubnetRange: 400, CodeAddressInvalid: 400, CodeUnderlayAddressMissing: 400,
	CodeAuthFailure: 401, CodeTokenInvalid: 401, CodeCertificateInvalid: 401,
	CodeUnauthorized: 403, CodeDomainNotOwned: 403, CodeNodeRevoked: 403, CodeNodeForgotten: 403,
	CodeAddressNotFound: 404, CodePermissionNotFound: 404, CodeServiceName: 404, CodeRouteNotFound: 404, CodeAccountNotFound: 404,
	CodeVPCNotFound: 404, CodeSubnetNotFound: 404, CodeENINotFound: 404, CodeGroupNotFound: 404,
	CodeTargetGroupNotFound: 404, CodeLoadBalancerNotFound: 404, CodeListenerNotFound: 404, CodeServiceNotFound: 404,
	CodeEndpointNotFound: 404, CodeConnectionNotFound: 404, CodeNodeNotFound: 404, CodeTokenNotFound: 404,
	CodeKeyNotFound: 404, CodeDomainNotFound: 404, CodeTargetNotFound: 404, CodePrincipalNotFound: 404,
	CodeHostedZoneNotFound: 404, CodeRecordNotFound: 404, CodeReportNotFound: 404, CodeResolverRuleNotFound: 404,
	CodeFlowLogNotFound: 404, CodeQueryLogNotFound: 404, CodeLegalHoldNotFound: 404, CodeLogKeyUnknown: 409,
	CodeFirewallNotFound: 404, CodeDomainListNotFound: 404, CodeFirewallRuleNotFound: 404, CodeFirewallInUse: 409, CodeDomainNotVerified: 409,
	CodeDependencyViolation: 409, CodeIncorrectState: 409, CodeLimitExceeded: 409, CodeDuplicateName: 409,
	CodeIdempotentMismatch: 409, CodeSubnetConflict: 409, CodeAddressInUse: 409, CodeNoFreeAddresses: 409,
	CodeENIInUse: 409, CodePermissionDuplicate: 409, CodeConflictingDomain: 409, CodeLoadBalancerInUse: 409,
	CodeOutOfNumbers: 409, CodeSecretNotReplayable: 409,
	CodeRevisionExpired: 410,
	CodeRequestTooLarge: 413,
	CodeRequestLimit:    429,
	CodeInternal:        500,
	CodeUnavailable:     503,
}

// GetStatus is the HTTP status that goes with the code; 400 where the code is none of those above.
func (e *Error) GetStatus() int {
	if s, ok := codeStatus[e.Code]; ok {
		return s
	}
	return 400
}

// ErrorCodes returns the codes that go with an HTTP status, sorted; with 0, all.
func ErrorCodes(status int) []ErrorCode {
	var out []ErrorCode
	for code, s := range codeStatus {
		if s == status || status == 0 {
			out = append(out, code)
		}
	}
	slices.Sort(out)
	return out
}

var notFoundCodes = map[Kind]struct {
	code ErrorCode
	noun string
}{
	KindAccount:       {CodeAccountNotFound, "account"},
	KindVPC:           {CodeVPCNotFound, "VPC"},
	KindSubnet:        {CodeSubnetNotFound, "subnet"},
	KindENI:           {CodeENINotFound, "network interface"},
	KindSecurityGroup: {CodeGroupNotFound, "security group"},
	KindTargetGroup:   {CodeTargetGroupNotFound, "target group"},
	KindLoadBalancer:  {CodeLoadBalancerNotFound, "load balancer"},
	KindService:       {CodeServiceNotFound, "endpoint service"},
	KindEndpoint:      {CodeEndpointNotFound, "endpoint"},
	KindConnection:    {CodeConnectionNotFound, "endpoint connection"},
	KindNode:          {CodeNodeNotFound, "node"},
	KindJoinToken:     {CodeTokenNotFound, "join token"},
	KindAPIKey:        {CodeKeyNotFound, "API key"},
	KindDomain:        {CodeDomainNotFound, "domain"},
	KindHostedZone:    {CodeHostedZoneNotFound, "hosted zone"},
	KindResolverRule:  {CodeResolverRuleNotFound, "resolver rule"},

	KindFlowLog:            {CodeFlowLogNotFound, "flow log"},
	KindFirewallDomainList: {CodeDomainListNotFound, "firewall domain list"},
	KindFirewallRuleGroup:  {CodeFirewallNotFound, "firewall rule group"},
	KindQueryLog:           {CodeQueryLogNotFound, "query log"},
}

// Noun is the kind in a sentence, such as "security group".
func (k Kind) Noun() string {
	if n, ok := notFoundCodes[k]; ok {
		return n.noun
	}
	return string(k)
}

// NotFound is the answer for an object that does not exist, or not for this caller: both must be indistinguishable.
func NotFound(kind Kind, field, ref string) *Error {
	n, ok := notFoundCodes[kind]
	if !ok {
		return Errorf(CodeInvalidParameter, field, "give one of the kinds in /openapi.json", "there is no kind %q", kind)
	}
	return Errorf(n.code, field, fmt.Sprintf("list the ones you have with GET /v1/%s", kind),
		"the %s %q does not exist", n.noun, Shortened(ref))
}
