package controlplane

import (
	"strings"

	"github.com/culvert-net/culvert/api"
)

var badEvidence = []bad{
	{"report-log-key", "node", nil, `{}`, api.CodeMissingParameter, "publicKey"},
	{"report-log-key", "node", nil, `{"publicKey":"c2hvcnQ="}`, api.CodeInvalidParameter, "publicKey"},
	{"report-log-key", "node", nil, `{"publicKey":"?"}`, api.CodeInvalidParameter, "publicKey"},
	{"stream-evidence", "admin", args("?since=yesterday"), "", api.CodeInvalidParameter, "since"},
	{"stream-evidence", "admin", args("?since=2026-03-02T00:00:00Z&until=2026-03-01T00:00:00Z"), "", api.CodeInvalidParameter, "until"},
	{"stream-evidence", "shop", nil, "", api.CodeUnauthorized, ""},
	{"modify-retention", "admin", args("nothing"), `{"days":30}`, api.CodeInvalidParameter, "id"},
	{"modify-retention", "admin", args("merkle-log"), `{"days":30}`, api.CodeInvalidCombination, "id"},
	{"modify-retention", "admin", args("segments"), `{}`, api.CodeMissingParameter, "days"},
	{"modify-retention", "admin", args("segments"), `{"days":0}`, api.CodeInvalidParameter, "days"},
	{"modify-retention", "admin", args("segments"), `{"days":36501}`, api.CodeInvalidParameter, "days"},
	{"modify-retention", "admin", args("segments"), `{"minimumDays":-1}`, api.CodeInvalidParameter, "minimumDays"},
	{"modify-retention", "admin", args("segments"), `{"days":30,"minimumDays":31}`, api.CodeInvalidParameter, "days"},
	{"modify-retention", "shop", args("segments"), `{"days":30}`, api.CodeUnauthorized, ""},
	{"create-legal-hold", "admin", nil, `{"from":"2026-03-01T00:00:00Z","to":"2026-04-01T00:00:00Z","reason":"x"}`, api.CodeMissingParameter, "vpcId"},
	{"create-legal-hold", "admin", nil, hold(`"nodeId":"nothing"`, "x"), api.CodeNodeNotFound, "nodeId"},
	{"create-legal-hold", "admin", nil, hold(`"vpcId":"nothing"`, "x"), api.CodeVPCNotFound, "vpcId"},
	{"create-legal-hold", "admin", nil, hold(`"serviceId":"nothing"`, "x"), api.CodeServiceNotFound, "serviceId"},
	{"create-legal-hold", "admin", nil, hold(`"endpointId":"nothing"`, "x"), api.CodeEndpointNotFound, "endpointId"},
	{"create-legal-hold", "admin", nil, hold(`"vpcId":"shop","nodeId":"host-a"`, "x"), api.CodeInvalidCombination, "vpcId"},
	{"create-legal-hold", "admin", nil, hold(`"vpcId":"shop"`, " "), api.CodeMissingParameter, "reason"},
	{"create-legal-hold", "admin", nil, hold(`"vpcId":"shop"`, strings.Repeat("x", api.MaxHoldReason+1)), api.CodeInvalidParameter, "reason"},
	{"create-legal-hold", "admin", nil, hold(`"vpcId":"shop"`, `a\nb`), api.CodeInvalidParameter, "reason"},
	{"create-legal-hold", "admin", nil, `{"vpcId":"shop","from":"2026-04-01T00:00:00Z","to":"2026-03-01T00:00:00Z","reason":"x"}`,
		api.CodeInvalidParameter, "to"},
	{"create-legal-hold", "shop", nil, hold(`"vpcId":"shop"`, "x"), api.CodeUnauthorized, ""},
	{"remove-legal-hold", "admin", args("lh-00000000000000000"), "", api.CodeLegalHoldNotFound, "id"},
}

func hold(about, reason string) string {
	return `{` + about + `,"from":"2026-03-01T00:00:00Z","to":"2026-04-01T00:00:00Z","reason":"` + reason + `"}`
}
