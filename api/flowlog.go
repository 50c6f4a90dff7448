package api

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// FlowLog says which flow records are delivered, in which form, and whereto.
type FlowLog struct {
	Meta
	ResourceType FlowLogResource `json:"resourceType"`
	Resource     string          `json:"resourceId"`
	TrafficType  TrafficType     `json:"trafficType"`
	// MaxAggregationIntervalSeconds is over how long records of one flow are joined to one line. Nodes write records as often as their
	// --flow-interval says: lines are no finer than that.
	MaxAggregationIntervalSeconds uint32          `json:"maxAggregationIntervalSeconds"`
	LogFormat                     string          `json:"logFormat"` // as AWS writes it; package audit/format
	DestinationType               DestinationType `json:"logDestinationType"`
	Destination                   string          `json:"logDestination"`
	FileFormat                    FileFormat      `json:"fileFormat"`
	HiveCompatiblePartitions      bool            `json:"hiveCompatiblePartitions"`
	PerHourPartition              bool            `json:"perHourPartition"`
	OnLoss                        OnLoss          `json:"onLoss"`

	// Delivery is what the server says of it; no part of what is stored.
	Delivery *FlowLogDelivery `json:"delivery,omitempty"`
}

// FlowLogDelivery is how the delivery of a flow log goes.
type FlowLogDelivery struct {
	Status       DeliverStatus `json:"deliverLogsStatus,omitempty"` // empty: nothing was to be delivered yet
	ErrorMessage string        `json:"deliverLogsErrorMessage,omitempty"`
	DeliveredAt  time.Time     `json:"deliveredAt,omitzero"` // newest object that arrived
	Objects      uint64        `json:"objects"`              // that arrived
	Lines        uint64        `json:"lines"`                // in them
	Waiting      int           `json:"waitingObjects"`
	LostRecords  uint64        `json:"lostRecords"`           // that were not delivered in time, and are declared in lines with SKIPDATA
	CoveredUntil time.Time     `json:"coveredUntil,omitzero"` // records of before are delivered or wait, but for late ones
}

// FlowLogResource is a kind of what a flow log is about.
type FlowLogResource string

// Kinds of resources that have flow logs.
const (
	FlowLogVPC      FlowLogResource = "vpc"
	FlowLogSubnet   FlowLogResource = "subnet"
	FlowLogENI      FlowLogResource = "eni"
	FlowLogEndpoint FlowLogResource = "endpoint"
	FlowLogService  FlowLogResource = "service"
	FlowLogAccount  FlowLogResource = "account"
)

// FlowLogResources are all of them.
var FlowLogResources = []FlowLogResource{FlowLogVPC, FlowLogSubnet, FlowLogENI, FlowLogEndpoint, FlowLogService, FlowLogAccount}

// flowLogKinds are the kinds that they are.
var flowLogKinds = map[FlowLogResource]Kind{FlowLogVPC: KindVPC, FlowLogSubnet: KindSubnet, FlowLogENI: KindENI,
	FlowLogEndpoint: KindEndpoint, FlowLogService: KindService, FlowLogAccount: KindAccount}

// Kind is the resource's kind, "" for an unknown word.
func (f FlowLogResource) Kind() Kind { return flowLogKinds[f] }

// FlowLogResourceOf is the word for an id's kind, "" where none has flow logs.
func FlowLogResourceOf(id string) FlowLogResource {
	kind, err := ParseID(id)
	if err != nil {
		return ""
	}
	for _, f := range FlowLogResources {
		if f.Kind() == kind {
			return f
		}
	}
	return ""
}

// TrafficType selects flows by what became of them.
type TrafficType string

// Traffic types, AWS's words.
const (
	TrafficAccept TrafficType = "ACCEPT"
	TrafficReject TrafficType = "REJECT"
	TrafficAll    TrafficType = "ALL"
)

// DestinationType is a kind of destination.
type DestinationType string

// Destination types.
const (
	DestinationLocal  DestinationType = "local"  // a directory at the server
	DestinationS3     DestinationType = "s3"     // a bucket of an S3-compatible store
	DestinationStream DestinationType = "stream" // JSON lines over TCP, TLS or HTTP
)

// FileFormat is the form of delivered files.
type FileFormat string

// File formats.
const (
	FilePlainText FileFormat = "plain-text"
	FileJSON      FileFormat = "json"
	FileParquet   FileFormat = "parquet"
)

// FileFormats are those that this server writes.
var FileFormats = []FileFormat{FilePlainText, FileJSON, FileParquet}

// OnLoss says what becomes of new flows where they cannot be recorded.
type OnLoss string

// What may be done about loss.
const (
	LossCount  OnLoss = "count"  // they pass, and what is lost is counted and declared
	LossRefuse OnLoss = "refuse" // they are refused while the node's log takes no records
)

// DeliverStatus is AWS's word for how a delivery goes.
type DeliverStatus string

// Deliver statuses.
const (
	DeliverSuccess DeliverStatus = "SUCCESS"
	DeliverFailed  DeliverStatus = "FAILED"
)

// AggregationIntervals are those that a flow log may have, in seconds; AWS has the last two.
var AggregationIntervals = []uint32{1, 10, 60, 600}

// Interval is the aggregation interval.
func (f *FlowLog) Interval() time.Duration {
	return time.Duration(f.MaxAggregationIntervalSeconds) * time.Second
}

// Validate checks all but the format and whether the destination is allowed, which only the server knows.
func (f *FlowLog) Validate() error {
	errs := []*Error{ValidateName("name", f.Name), validateMeta(KindFlowLog, &f.Meta, false),
		oneOf("resourceType", f.ResourceType, FlowLogResources...),
		oneOf("trafficType", f.TrafficType, TrafficAccept, TrafficReject, TrafficAll),
		oneOf("logDestinationType", f.DestinationType, DestinationLocal, DestinationS3, DestinationStream),
		oneOf("fileFormat", f.FileFormat, FileFormats...),
		oneOf("onLoss", f.OnLoss, LossCount, LossRefuse)}
	if !slices.Contains(AggregationIntervals, f.MaxAggregationIntervalSeconds) {
		errs = append(errs, invalid("maxAggregationIntervalSeconds", "use 1, 10, 60 or 600", "%d s is no aggregation interval",
			f.MaxAggregationIntervalSeconds))
	}
	if len(f.Destination) > MaxDestinationLen || !printable(f.Destination) {
		errs = append(errs, invalid("logDestination", fmt.Sprintf("give at most %d printable characters", MaxDestinationLen),
			"the destination is malformed"))
	}
	return firstError(append(errs, f.validateTogether())...)
}

// validateTogether checks what must fit each other.
func (f *FlowLog) validateTogether() *Error {
	if f.OnLoss == LossRefuse && (f.ResourceType == FlowLogEndpoint || f.ResourceType == FlowLogService) {
		return Errorf(CodeInvalidCombination, "onLoss", "make a flow log of the VPC, subnet, ENI or account for that",
			"flows are refused by interface, and the flows of %s %s are of many", article(string(f.ResourceType)), f.ResourceType)
	}
	if f.DestinationType == DestinationStream {
		switch {
		case f.FileFormat != FileJSON:
			return Errorf(CodeInvalidCombination, "fileFormat", "use json", "a stream has JSON lines")
		case f.HiveCompatiblePartitions || f.PerHourPartition:
			return Errorf(CodeInvalidCombination, "hiveCompatiblePartitions", "leave partitions out", "a stream has no partitions")
		}
	}
	return nil
}

func article(noun string) string {
	if strings.ContainsAny(noun[:1], "aeiou") {
		return "an"
	}
	return "a"
}

// oneOf checks a word.
func oneOf[S ~string](field string, have S, words ...S) *Error {
	if slices.Contains(words, have) {
		return nil
	}
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = string(w)
	}
	last := len(list) - 1
	remedy := "use " + list[last]
	if last > 0 {
		remedy = "use " + strings.Join(list[:last], ", ") + " or " + list[last]
	}
	if have == "" {
		return Errorf(CodeMissingParameter, field, remedy, "nothing is given")
	}
	return invalid(field, remedy, "%q is not known here", Shortened(string(have)))
}

// Covers reports whether an interface's own records belong to the flow log.
func (f *FlowLog) Covers(e *ENI) bool {
	switch f.ResourceType {
	case FlowLogVPC:
		return e.VPC == f.Resource
	case FlowLogSubnet:
		return e.Subnet == f.Resource
	case FlowLogENI:
		return e.ID == f.Resource
	case FlowLogAccount:
		return e.Account == f.Resource
	}
	return false
}

// Takes reports whether a record, as the flow log's account may see it, belongs to the flow log.
func (f *FlowLog) Takes(r *FlowRecord) bool {
	if f.TrafficType != TrafficAll && r.Action != "" && r.Action != string(f.TrafficType) {
		return false
	}
	return f.Concerns(r)
}

// Concerns reports whether a record, as the flow log's account may see it, is of the flow log's resource, whatever its traffic type.
func (f *FlowLog) Concerns(r *FlowRecord) bool {
	switch f.ResourceType {
	case FlowLogVPC:
		return r.VPC == f.Resource && r.Account == f.Account
	case FlowLogSubnet:
		return r.Subnet == f.Resource
	case FlowLogENI:
		return r.Interface == f.Resource
	case FlowLogEndpoint:
		return r.Endpoint == f.Resource
	case FlowLogService:
		return r.Service == f.Resource
	case FlowLogAccount:
		return r.Account == f.Resource
	}
	return false
}

// CreateFlowLogRequest is the body of POST /v1/flow-logs. What is left out has AWS's default, but for the interval: 60 s.
type CreateFlowLogRequest struct {
	Name                          string            `json:"name"`
	ResourceType                  FlowLogResource   `json:"resourceType,omitempty"` // may be left out with an id
	Resource                      string            `json:"resourceId,omitempty"`   // id or name; of an account: the own one
	TrafficType                   TrafficType       `json:"trafficType,omitempty"`
	MaxAggregationIntervalSeconds uint32            `json:"maxAggregationIntervalSeconds,omitempty"`
	LogFormat                     string            `json:"logFormat,omitempty"`
	DestinationType               DestinationType   `json:"logDestinationType,omitempty"`
	Destination                   string            `json:"logDestination,omitempty"`
	FileFormat                    FileFormat        `json:"fileFormat,omitempty"`
	HiveCompatiblePartitions      bool              `json:"hiveCompatiblePartitions,omitempty"`
	PerHourPartition              bool              `json:"perHourPartition,omitempty"`
	OnLoss                        OnLoss            `json:"onLoss,omitempty"`
	Tags                          map[string]string `json:"tags,omitempty"`
}

// ModifyFlowLogRequest is the body of PATCH /v1/flow-logs/{id}; nil leaves a field as it is.
type ModifyFlowLogRequest struct {
	TrafficType                   *TrafficType     `json:"trafficType,omitempty"`
	MaxAggregationIntervalSeconds *uint32          `json:"maxAggregationIntervalSeconds,omitempty"`
	LogFormat                     *string          `json:"logFormat,omitempty"`
	DestinationType               *DestinationType `json:"logDestinationType,omitempty"`
	Destination                   *string          `json:"logDestination,omitempty"`
	FileFormat                    *FileFormat      `json:"fileFormat,omitempty"`
	HiveCompatiblePartitions      *bool            `json:"hiveCompatiblePartitions,omitempty"`
	PerHourPartition              *bool            `json:"perHourPartition,omitempty"`
	OnLoss                        *OnLoss          `json:"onLoss,omitempty"`
}
