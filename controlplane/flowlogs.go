package controlplane

import (
	"net/http"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
	"github.com/culvert-net/culvert/controlplane/delivery"
)

func (s *Server) registerFlowLogs() {
	const logs, one = "/v1/flow-logs", "/v1/flow-logs/{id}"
	writing(s, operation{http.MethodPost, logs, "create-flow-log", "Have flow records delivered", aUser}, createFlowLog)
	listing(s, operation{http.MethodGet, logs, "list-flow-logs", "Flow logs, and how their delivery goes", aUser},
		func(c *call, _ *Watching) (*api.List[api.FlowLog], error) {
			out := list(c, c.r.FlowLogs, nil)
			for i := range out.Items {
				out.Items[i].Delivery = c.s.delivery.State(out.Items[i].ID)
			}
			return out, nil
		})
	reading(s, operation{http.MethodGet, one, "get-flow-log", "One flow log, and how its delivery goes", aUser},
		func(c *call, in *ByID) (*api.FlowLog, error) {
			f, err := c.flowLog(in.ID)
			if err != nil {
				return nil, err
			}
			out := *f
			out.Delivery = c.s.delivery.State(out.ID)
			return &out, nil
		})
	writing(s, operation{http.MethodPatch, one, "modify-flow-log", "Change a flow log", aUser}, modifyFlowLog)
	writing(s, operation{http.MethodDelete, one, "delete-flow-log", "End a flow log", aUser},
		func(c *call, in *Removal) (*api.Result, error) {
			f, err := c.flowLog(in.ID)
			if err != nil {
				return nil, err
			}
			c.subject = f.ID
			c.tx.Remove(f)
			return &api.Result{}, c.forgetFlowNotes(f.ID)
		})
}

func (c *call) flowLog(ref string) (*api.FlowLog, error) {
	return find(c, c.r.FlowLogs, api.KindFlowLog, "id", ref, nil)
}

func createFlowLog(c *call, in *creation[api.CreateFlowLogRequest]) (*api.FlowLog, error) {
	account, err := c.owner()
	if err != nil {
		return nil, err
	}
	if err := limit(c.r.FlowLogs, api.MaxFlowLogsPerAccount, "flow logs",
		func(f *api.FlowLog) bool { return f.Account == account }); err != nil {
		return nil, err
	}
	b := in.Body
	f := &api.FlowLog{ResourceType: b.ResourceType, Resource: b.Resource,
		TrafficType: b.TrafficType, MaxAggregationIntervalSeconds: b.MaxAggregationIntervalSeconds, LogFormat: b.LogFormat,
		DestinationType: b.DestinationType, Destination: b.Destination, FileFormat: b.FileFormat,
		HiveCompatiblePartitions: b.HiveCompatiblePartitions, PerHourPartition: b.PerHourPartition, OnLoss: b.OnLoss}
	if err := c.resourceOf(f); err != nil {
		return nil, err
	}
	f.Meta = c.meta(api.KindFlowLog, account, b.Name, b.Tags)
	setDefault(&f.TrafficType, api.TrafficAll)
	setDefault(&f.MaxAggregationIntervalSeconds, 60)
	setDefault(&f.LogFormat, format.Default)
	setDefault(&f.DestinationType, api.DestinationLocal)
	if f.DestinationType == api.DestinationLocal {
		setDefault(&f.Destination, "flow-logs")
	}
	setDefault(&f.FileFormat, api.FilePlainText)
	setDefault(&f.OnLoss, api.LossCount)
	if err := c.putFlowLog(f); err != nil {
		return nil, err
	}
	return f, c.noteFlowLog(f.ID, nil)
}

// putFlowLog checks what only the server knows, and writes it.
func (c *call) putFlowLog(f *api.FlowLog) error {
	f.LogFormat = strings.Join(strings.Fields(f.LogFormat), " ")
	if err := f.Validate(); err != nil {
		return err
	}
	if _, err := format.Parse(f.LogFormat); err != nil {
		return err
	}
	if err := c.s.allowed.Check(f); err != nil {
		return err
	}
	return put(c, f, c.r.FlowLogs, nil)
}

// resourceOf finds what a new flow log is about, which is the account's own.
func (c *call) resourceOf(f *api.FlowLog) error {
	const field = "resourceId"
	if f.ResourceType == "" {
		f.ResourceType = api.FlowLogResourceOf(f.Resource)
	}
	var err error
	own := func(kind api.Kind, find func() (string, error)) {
		if k, parsed := api.ParseID(f.Resource); parsed == nil && k != kind {
			err = api.Errorf(api.CodeInvalidCombination, "resourceType", "leave it out with an id", "%s is no %s", f.Resource, kind.Noun())
			return
		}
		f.Resource, err = find()
	}
	switch f.ResourceType {
	case api.FlowLogVPC:
		own(api.KindVPC, func() (string, error) { return ownID(c, c.r.VPCs, api.KindVPC, field, f.Resource, nil) })
	case api.FlowLogSubnet:
		own(api.KindSubnet, func() (string, error) { return ownID(c, c.r.Subnets, api.KindSubnet, field, f.Resource, nil) })
	case api.FlowLogENI:
		own(api.KindENI, func() (string, error) {
			return ownID(c, c.r.ENIs, api.KindENI, field, f.Resource, func(e *api.ENI) bool { return e.Type == api.ENIWorkload })
		})
		if e := c.r.ENIs[f.Resource]; err == nil && e.Type != api.ENIWorkload {
			err = api.Errorf(api.CodeInvalidParameter, field, "make a flow log of the endpoint or service",
				"%s is an interface of type %s, whose traffic is recorded at the workloads'", e.ID, e.Type)
		}
	case api.FlowLogEndpoint:
		own(api.KindEndpoint, func() (string, error) { return ownID(c, c.r.Endpoints, api.KindEndpoint, field, f.Resource, nil) })
	case api.FlowLogService:
		own(api.KindService, func() (string, error) { return ownID(c, c.r.Services, api.KindService, field, f.Resource, nil) })
	case api.FlowLogAccount:
		a := accountByRef(c.r, f.Resource)
		if f.Resource == "" {
			a = c.r.Accounts[c.account]
		}
		if a == nil || a.ID != c.account {
			return api.NotFound(api.KindAccount, field, f.Resource)
		}
		f.Resource = a.ID
	default:
		if f.Resource != "" && f.ResourceType == "" {
			return api.Errorf(api.CodeInvalidParameter, field, "give the id of a VPC, subnet, ENI, endpoint or service, or its name and resourceType",
				"%q is no id of what has flow logs", api.Shortened(f.Resource))
		}
	}
	return err
}

func ownID[T api.Resource](c *call, all map[string]T, kind api.Kind, field, ref string, also func(T) bool) (string, error) {
	res, err := find(c, all, kind, field, ref, also)
	if err != nil {
		return "", err
	}
	return res.GetMeta().ID, nil
}

func modifyFlowLog(c *call, in *change[api.ModifyFlowLogRequest]) (*api.FlowLog, error) {
	old, err := c.flowLog(in.ID)
	if err != nil {
		return nil, err
	}
	f := *old
	c.subject = f.ID
	b := in.Body
	replace(&f.TrafficType, b.TrafficType)
	replace(&f.MaxAggregationIntervalSeconds, b.MaxAggregationIntervalSeconds)
	replace(&f.LogFormat, b.LogFormat)
	replace(&f.DestinationType, b.DestinationType)
	replace(&f.Destination, b.Destination)
	replace(&f.FileFormat, b.FileFormat)
	replace(&f.HiveCompatiblePartitions, b.HiveCompatiblePartitions)
	replace(&f.PerHourPartition, b.PerHourPartition)
	replace(&f.OnLoss, b.OnLoss)
	if f.LogFormat == "" {
		f.LogFormat = format.Default
	}
	if f.DestinationType != old.DestinationType && slices.Contains([]api.DestinationType{f.DestinationType, old.DestinationType}, api.DestinationStream) {
		return nil, api.Errorf(api.CodeInvalidCombination, "logDestinationType", "make another flow log, and delete this one",
			"files that wait cannot become a stream, nor batches files")
	}
	if err := c.putFlowLog(&f); err != nil || delivery.SameForm(old, &f) {
		return &f, err
	}
	return &f, c.noteFlowLog(f.ID, old)
}

// replace sets what is given.
func replace[T any](to *T, given *T) {
	if given != nil {
		*to = *given
	}
}
