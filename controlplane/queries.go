package controlplane

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/evidence"
	"github.com/culvert-net/culvert/controlplane/flowlog"
	"github.com/culvert-net/culvert/internal/logkey"
)

func (s *Server) registerQueries() {
	huma.Register(s.huma, stream(operation{http.MethodGet, "/v1/queries", "query-dns", "DNS questions of the caller's VPCs", aUser}.huma(s),
		"One QueryRecord per line, oldest first; empty lines are keep-alives"), s.listQueries)
}

// mayRecordQuery is mayRecord for the record of a question.
func (s *Server) mayRecordQuery(e *api.FlowEnvelope, size int, now time.Time) (why string) {
	var line api.QueryLine
	err := json.Unmarshal(e.Record, &line)
	r := &line.Query
	switch {
	case size > flowlog.MaxRecord, !evidence.GoodBoot(e.Boot), e.Seq == 0:
		return "an envelope that is too large, or lacks boot or number"
	case err != nil, r.Node != e.Node, r.Boot != e.Boot, r.Sequence != e.Seq, !r.End.Equal(e.End):
		return "a record that is not the envelope's"
	case e.End.After(now.Add(maxAhead)), s.expired(api.RetainFlowRecords, e.End):
		return "a time that is not kept"
	}
	if v := s.store.Snapshot().VPCs[r.VPC]; v != nil && v.Account != r.Account {
		return "another account's VPC"
	}
	e.Accounts, why = s.hub.accountsOfQuery(e.Node, r, s.cfg.ViewMaxAge+maxAhead)
	return why
}

type queryFilter struct {
	Since    time.Time `query:"since" doc:"Questions answered at or after this time"`
	Until    time.Time `query:"until" doc:"Questions answered before this time"`
	VPC      string    `query:"vpc" doc:"VPC, id or name"`
	ENI      string    `query:"eni" doc:"Network interface that asked, id or name"`
	Client   string    `query:"client" doc:"Address that asked, IPv4"`
	Name     string    `query:"name" doc:"Name that was asked for, or that it is below"`
	Type     string    `query:"type" doc:"Type of record, such as AAAA"`
	RCODE    string    `query:"rcode" doc:"Of the answer, such as NXDOMAIN"`
	Firewall string    `query:"firewall" enum:"ALLOW,BLOCK,ALERT" doc:"What the query firewall did"`
	Address  string    `query:"address" doc:"Among those of the answer"`
	Limit    int       `query:"limit" minimum:"0" maximum:"1000000" doc:"The newest so many; 0: 1000"`
	Follow   bool      `query:"follow" doc:"Go on with new records as they come"`
}

func (s *Server) listQueries(ctx context.Context, in *queryFilter) (*huma.StreamResponse, error) {
	c := s.newCall(ctx, s.store.Snapshot())
	if err := c.chooseAccount(); err != nil {
		return nil, s.failure(ctx, "query-dns", err)
	}
	q, err := c.queriesQuery(in)
	if err != nil {
		return nil, s.failure(ctx, "query-dns", err)
	}
	s.noteRead(ctx, c, "query-dns", "")
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		out, r := startLines(hc)
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		wake := make(chan struct{}, 1)
		go s.ring(ctx, cancel, wake)
		while := func(do func() error) error { // the key stands
			if !s.keyStands(c.who.key) {
				return errBadKey
			}
			return do()
		}
		err := s.flows.Queries(ctx, c.account, q, func(r *api.QueryRecord) error {
			return while(func() error { return out.send(r) })
		}, func() error { return while(out.caughtUp) }, wake)
		if err != nil {
			s.log.Debug("query of queries ended", logkey.RequestID, requestID(ctx), logkey.Error, err)
		}
	}}, nil
}

// queriesQuery turns names into ids, and addresses into the form that records have.
func (c *call) queriesQuery(in *queryFilter) (q api.QueriesQuery, err error) {
	q = api.QueriesQuery{Follow: in.Follow, QueryFilter: api.QueryFilter{Since: in.Since, Until: in.Until, Name: in.Name, Type: in.Type,
		RCODE: in.RCODE, FirewallAction: api.FirewallAction(in.Firewall), Limit: in.Limit}}
	if q.VPC, err = idOf(c, c.r.VPCs, api.KindVPC, "vpc", in.VPC); err != nil {
		return q, err
	}
	if q.Interface, err = idOf(c, c.r.ENIs, api.KindENI, "eni", in.ENI); err != nil {
		return q, err
	}
	for _, a := range []struct {
		field, text string
		to          *string
	}{{"client", in.Client, &q.Client}, {"address", in.Address, &q.Address}} {
		if a.text == "" {
			continue
		}
		address, err := netip.ParseAddr(a.text)
		if err != nil {
			return q, api.Errorf(api.CodeInvalidParameter, a.field, "give one such as 10.0.1.5", "%q is no address", api.Shortened(a.text))
		}
		*a.to = address.Unmap().String()
	}
	return q, nil
}
