package api

import (
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

// Interval is the aggregation interval.
func (f *FlowLog) Interval() time.Duration {
	return time.Duration(f.MaxAggregationIntervalSeconds) * time.Second
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
