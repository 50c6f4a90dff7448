package api

import "fmt"

// ConnectionEvent is what happens to an endpoint and its connection.
type ConnectionEvent string

// Connection events.
const (
	EventAccept  ConnectionEvent = "accept"  // the provider says yes
	EventReject  ConnectionEvent = "reject"  // the provider says no, also to one it accepted before
	EventExpire  ConnectionEvent = "expire"  // the provider said nothing for too long
	EventReady   ConnectionEvent = "ready"   // addresses and numbers are allocated
	EventFail    ConnectionEvent = "fail"    // they cannot be
	EventModify  ConnectionEvent = "modify"  // the consumer changes the endpoint
	EventDelete  ConnectionEvent = "delete"  // the consumer deletes the endpoint
	EventRemoved ConnectionEvent = "removed" // nothing is left of it
)

// ConnectionStates lists every state.
var ConnectionStates = []ConnectionState{
	PendingAcceptance, Pending, Available, Deleting, Deleted, Rejected, Failed, Expired,
}

// ConnectionEvents lists every event.
var ConnectionEvents = []ConnectionEvent{
	EventAccept, EventReject, EventExpire, EventReady, EventFail, EventModify, EventDelete, EventRemoved,
}

// refused marks a pair that the table decides with no.
const refused = ""

// connectionTable decides every (state, event). A pair that is missing is a mistake, found by a test.
var connectionTable = map[ConnectionState]map[ConnectionEvent]ConnectionState{
	PendingAcceptance: {
		EventAccept: Pending, EventReject: Rejected, EventExpire: Expired, EventReady: refused, EventFail: Failed,
		EventModify: PendingAcceptance, EventDelete: Deleting, EventRemoved: refused,
	},
	Pending: {
		EventAccept: refused, EventReject: Rejected, EventExpire: refused, EventReady: Available, EventFail: Failed,
		EventModify: Pending, EventDelete: Deleting, EventRemoved: refused,
	},
	Available: {
		EventAccept: refused, EventReject: Rejected, EventExpire: refused, EventReady: refused, EventFail: Failed,
		EventModify: Pending, EventDelete: Deleting, EventRemoved: refused,
	},
	Rejected: {
		EventAccept: Pending, EventReject: refused, EventExpire: refused, EventReady: refused, EventFail: refused,
		EventModify: refused, EventDelete: Deleting, EventRemoved: refused,
	},
	Failed: {
		EventAccept: refused, EventReject: Rejected, EventExpire: refused, EventReady: refused, EventFail: refused,
		EventModify: Pending, EventDelete: Deleting, EventRemoved: refused,
	},
	Expired: {
		EventAccept: refused, EventReject: refused, EventExpire: refused, EventReady: refused, EventFail: refused,
		EventModify: refused, EventDelete: Deleting, EventRemoved: refused,
	},
	Deleting: {
		EventAccept: refused, EventReject: refused, EventExpire: refused, EventReady: refused, EventFail: refused,
		EventModify: refused, EventDelete: refused, EventRemoved: Deleted,
	},
	Deleted: {
		EventAccept: refused, EventReject: refused, EventExpire: refused, EventReady: refused, EventFail: refused,
		EventModify: refused, EventDelete: refused, EventRemoved: refused,
	},
}

var connectionRemedy = map[ConnectionState]string{
	PendingAcceptance: "the provider must accept or reject it first",
	Pending:           "wait until it is Available",
	Available:         "it is accepted already",
	Rejected:          "the provider may accept it after all, or the consumer deletes the endpoint",
	Failed:            "delete the endpoint and create it again",
	Expired:           "delete the endpoint and create it again",
	Deleting:          "create a new endpoint",
	Deleted:           "create a new endpoint",
}

// InitialConnectionState is the state that a new endpoint and its connection start in.
func InitialConnectionState(acceptanceRequired bool) ConnectionState {
	if acceptanceRequired {
		return PendingAcceptance
	}
	return Pending
}

// Next is the state after an event, or an *Error with CodeIncorrectState.
func (s ConnectionState) Next(e ConnectionEvent) (ConnectionState, error) {
	if next := connectionTable[s][e]; next != refused {
		return next, nil
	}
	return s, Errorf(CodeIncorrectState, "state", connectionRemedy[s], "cannot %s an endpoint connection that is %s", e, s)
}

// ServiceEvent is what happens to an endpoint service.
type ServiceEvent string

// Service events.
const (
	ServiceEventReady   ServiceEvent = "ready"
	ServiceEventFail    ServiceEvent = "fail"
	ServiceEventModify  ServiceEvent = "modify"
	ServiceEventDelete  ServiceEvent = "delete"
	ServiceEventRemoved ServiceEvent = "removed"
)

// ServiceStates lists every state.
var ServiceStates = []ServiceState{ServicePending, ServiceAvailable, ServiceDeleting, ServiceDeleted, ServiceFailed}

// ServiceEvents lists every event.
var ServiceEvents = []ServiceEvent{
	ServiceEventReady, ServiceEventFail, ServiceEventModify, ServiceEventDelete, ServiceEventRemoved,
}

var serviceTable = map[ServiceState]map[ServiceEvent]ServiceState{
	ServicePending: {
		ServiceEventReady: ServiceAvailable, ServiceEventFail: ServiceFailed, ServiceEventModify: ServicePending,
		ServiceEventDelete: ServiceDeleting, ServiceEventRemoved: refused,
	},
	ServiceAvailable: {
		ServiceEventReady: refused, ServiceEventFail: ServiceFailed, ServiceEventModify: ServicePending,
		ServiceEventDelete: ServiceDeleting, ServiceEventRemoved: refused,
	},
	ServiceFailed: {
		ServiceEventReady: refused, ServiceEventFail: refused, ServiceEventModify: ServicePending,
		ServiceEventDelete: ServiceDeleting, ServiceEventRemoved: refused,
	},
	ServiceDeleting: {
		ServiceEventReady: refused, ServiceEventFail: refused, ServiceEventModify: refused,
		ServiceEventDelete: refused, ServiceEventRemoved: ServiceDeleted,
	},
	ServiceDeleted: {
		ServiceEventReady: refused, ServiceEventFail: refused, ServiceEventModify: refused,
		ServiceEventDelete: refused, ServiceEventRemoved: refused,
	},
}

// Next is the state after an event, or an *Error with CodeIncorrectState.
func (s ServiceState) Next(e ServiceEvent) (ServiceState, error) {
	if next := serviceTable[s][e]; next != refused {
		return next, nil
	}
	return s, Errorf(CodeIncorrectState, "state", fmt.Sprintf("look at it with GET /v1/%s/{id}", KindService),
		"cannot %s an endpoint service that is %s", e, s)
}

// NodeEvent is what an operator does to a node.
type NodeEvent string

// Node events.
const (
	NodeEventDrain   NodeEvent = "drain"
	NodeEventUndrain NodeEvent = "undrain"
	NodeEventRevoke  NodeEvent = "revoke"
)

// NodeStates lists every state.
var NodeStates = []NodeState{NodeReady, NodeDraining, NodeRevoked}

// NodeEvents lists every event.
var NodeEvents = []NodeEvent{NodeEventDrain, NodeEventUndrain, NodeEventRevoke}

var nodeTable = map[NodeState]map[NodeEvent]NodeState{
	NodeReady: {
		NodeEventDrain: NodeDraining, NodeEventUndrain: NodeReady, NodeEventRevoke: NodeRevoked,
	},
	NodeDraining: {
		NodeEventDrain: NodeDraining, NodeEventUndrain: NodeReady, NodeEventRevoke: NodeRevoked,
	},
	NodeRevoked: {
		NodeEventDrain: refused, NodeEventUndrain: refused, NodeEventRevoke: NodeRevoked,
	},
}

// Next is the state after an event, or an *Error with CodeIncorrectState. Revocation is final.
func (s NodeState) Next(e NodeEvent) (NodeState, error) {
	if next := nodeTable[s][e]; next != refused {
		return next, nil
	}
	return s, Errorf(CodeIncorrectState, "state", "let the machine join again with a new token",
		"cannot %s a node that is %s", e, s)
}
