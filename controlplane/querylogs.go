package controlplane

import (
	"net/http"

	"github.com/culvert-net/culvert/api"
)

func (s *Server) registerQueryLogs() {
	writing(s, operation{http.MethodPost, "/v1/query-logs", "create-query-log", "Have VPCs' DNS questions recorded", aUser}, createQueryLog)
	listing(s, operation{http.MethodGet, "/v1/query-logs", "list-query-logs", "Query logs", aUser},
		func(c *call, _ *Watching) (*api.List[api.QueryLog], error) { return list(c, c.r.QueryLogs, nil), nil })
	reading(s, operation{http.MethodGet, "/v1/query-logs/{id}", "get-query-log", "One query log", aUser},
		func(c *call, in *ByID) (*api.QueryLog, error) { return c.queryLog(in.ID) })
	writing(s, operation{http.MethodPost, "/v1/query-logs/{id}/associate", "associate-query-log", "Have it record more VPCs", aUser},
		associateQueryLog)
	writing(s, operation{http.MethodPost, "/v1/query-logs/{id}/disassociate", "disassociate-query-log", "Take that back", aUser},
		disassociateQueryLog)
	writing(s, operation{http.MethodDelete, "/v1/query-logs/{id}", "delete-query-log", "Record no more", aUser},
		func(c *call, in *Removal) (*api.Result, error) {
			q, err := c.queryLog(in.ID)
			if err != nil {
				return nil, err
			}
			c.subject = q.ID
			c.tx.Remove(q)
			return &api.Result{}, nil
		})
}

func (c *call) queryLog(ref string) (*api.QueryLog, error) {
	return find(c, c.r.QueryLogs, api.KindQueryLog, "id", ref, nil)
}

func createQueryLog(c *call, in *creation[api.CreateQueryLogRequest]) (*api.QueryLog, error) {
	account, err := c.owner()
	if err != nil {
		return nil, err
	}
	if err := limit(c.r.QueryLogs, api.MaxQueryLogsPerAccount, "query logs",
		func(q *api.QueryLog) bool { return q.Account == account }); err != nil {
		return nil, err
	}
	q := &api.QueryLog{Meta: c.meta(api.KindQueryLog, account, in.Body.Name, in.Body.Tags), VPCs: []string{}}
	return q, c.logVPCs(q, in.Body.VPCs)
}

// changedQueryLog is a copy of the query log that a request names.
func (c *call) changedQueryLog(ref string) (*api.QueryLog, error) {
	old, err := c.queryLog(ref)
	if err != nil {
		return nil, err
	}
	q := *old
	c.subject = q.ID
	return &q, nil
}

// logVPCs adds VPCs to a query log and writes it. That another one has them too is no conflict: they are recorded once.
func (c *call) logVPCs(q *api.QueryLog, refs []string) error {
	if err := q.Validate(); err != nil {
		return err
	}
	vpcs, err := c.associated(q.Account, q.VPCs, refs, func(*api.VPC) error { return nil })
	if err != nil {
		return err
	}
	q.VPCs = vpcs
	return put(c, q, c.r.QueryLogs, nil)
}

func associateQueryLog(c *call, in *change[api.VPCsRequest]) (*api.QueryLog, error) {
	q, err := c.changedQueryLog(in.ID)
	if err != nil {
		return nil, err
	}
	if err := atMost("vpcIds", len(in.Body.VPCs)); err != nil {
		return nil, err
	}
	return q, c.logVPCs(q, in.Body.VPCs)
}

func disassociateQueryLog(c *call, in *change[api.VPCsRequest]) (*api.QueryLog, error) {
	q, err := c.changedQueryLog(in.ID)
	if err != nil {
		return nil, err
	}
	if q.VPCs, err = c.disassociated(q, q.VPCs, in.Body.VPCs); err != nil {
		return nil, err
	}
	return q, put(c, q, nil, nil)
}
