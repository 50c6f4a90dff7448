package flowlog

import (
	"encoding/json"

	"github.com/culvert-net/culvert/api"
)

// Words of records, as agents write them.
const (
	sideConsumer  = "consumer"
	stageWorkload = "workload"
	stageTunnel   = "tunnel"
	stageLocal    = "local"
)

// seenBy is a record as an account may see it: of a connection with another account, nothing of how that arranges its own network.
// The provider may know who its consumers are and from which address they come: that is what the service is for. An empty account
// sees all.
func seenBy(account string, r api.FlowRecord) api.FlowRecord {
	switch {
	case account == "" || r.ConsumerAccount == r.ProviderAccount:
	case account == r.ProviderAccount:
		hideConsumer(&r)
	case r.Side == sideConsumer:
		hideTarget(&r)
	default: // of the provider's node, for the consumer
		hideProvider(&r)
	}
	return r
}

// hideConsumer takes from a record of the consumer's node what only the consumer may know.
func hideConsumer(r *api.FlowRecord) {
	if r.Side == sideConsumer {
		r.Interface, r.Subnet, r.Rule = "", "", ""
	}
}

// hideTarget takes from a record of the consumer's node where the endpoint leads.
func hideTarget(r *api.FlowRecord) {
	r.ProviderVPC = ""
	switch {
	case r.Stage == stageWorkload && r.Action == api.ActionReject && r.Translated == r.Tuple: // what was refused was not translated
	case r.Stage == stageWorkload:
		hideDestination(&r.Translated)
	case r.Stage == stageTunnel || r.Stage == stageLocal: // an answer on its way back
		r.Translated = api.FlowTuple{}
		hideSource(&r.Tuple)
	default:
		r.Tuple, r.Translated = api.FlowTuple{}, api.FlowTuple{}
	}
}

// hideProvider takes from a record of the provider's node what only the provider may know. What remains of the addresses is the
// consumer's own.
func hideProvider(r *api.FlowRecord) {
	r.Interface, r.Subnet, r.VPC, r.ProviderVPC, r.Rule = "", "", "", "", ""
	r.Translated = api.FlowTuple{}
	hideDestination(&r.Tuple)
	if r.Stage != stageTunnel && r.Stage != stageLocal {
		r.Tuple = api.FlowTuple{}
	}
}

func hideSource(t *api.FlowTuple) { t.SrcAddr, t.SrcPort = "", 0 }

func hideDestination(t *api.FlowTuple) { t.DstAddr, t.DstPort = "", 0 }

// redact is seenBy for a record in its envelope; nothing when it cannot be read.
func redact(account string, e api.FlowEnvelope) (out api.FlowEnvelope, r api.FlowRecord, ok bool) {
	var whole api.FlowRecord
	if json.Unmarshal(e.Record, &whole) != nil {
		return e, r, false
	}
	if r = seenBy(account, whole); r == whole {
		return e, r, true
	}
	data, err := json.Marshal(r)
	if err != nil {
		return e, r, false
	}
	e.Record = data
	return e, r, true
}
