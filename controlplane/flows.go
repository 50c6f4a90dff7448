package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/evidence"
	"github.com/culvert-net/culvert/controlplane/flowlog"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	// maxAhead is how far a node's clock may be ahead before its records are refused.
	maxAhead = 24 * time.Hour
)

func (s *Server) registerFlows() {
	take := operation{http.MethodPost, "/v1/node/flows", "send-flows", "Store flow records, at least once", aNode}.huma(s)
	take.MaxBodyBytes = maxFlowBody
	huma.Register(s.huma, take, s.takeFlows)
	huma.Register(s.huma, stream(operation{http.MethodGet, "/v1/flows", "query-flows", "Flow records of the caller's account", aUser}.huma(s),
		"One record per line, oldest first; empty lines are keep-alives"), s.queryFlows)
}

type flowBatch struct {
	RawBody []byte `contentType:"application/x-ndjson"`
}

type flowAnswer struct{ Body *api.FlowReceipt }

// takeFlows stores what a node sends. A batch that cannot be read is refused as a whole; a record that the node may not write is
// left out and counted, since sending it again would not help.
func (s *Server) takeFlows(ctx context.Context, in *flowBatch) (*flowAnswer, error) {
	c := s.newCall(ctx, s.store.Snapshot())
	node := c.who.node.ID
	if s.nodeKeys.waits(node) { // what comes before its key stands in the Merkle log would be no evidence
		return nil, s.failure(ctx, "send-flows", errTellKey("the key that the node told is not in the Merkle log yet"))
	}
	s.viewOf(c.r, node) // a server that has just started knows of no relations yet
	var good []api.FlowEnvelope
	var sealed []evidence.Line
	receipt := &api.FlowReceipt{}
	line := 0
	for text := range bytes.SplitSeq(in.RawBody, []byte{'\n'}) {
		line++
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		var e api.FlowEnvelope
		if err := json.Unmarshal(text, &e); err != nil {
			return nil, api.Errorf(api.CodeInvalidParameter, fmt.Sprintf("line %d", line), "send one FlowEnvelope per line", "%v", err)
		}
		e.Node = node
		l, ok := s.evidenceLine(&e) // before what it may say is completed
		why := s.refusal(&e, len(text), c.now)
		if l.Refused = why != ""; ok {
			sealed = append(sealed, l)
		}
		if e.Kind == api.KindOfSeal {
			continue
		}
		if why != "" {
			receipt.Refused++
			s.figures.refused.Add(1)
			s.refusedFlows.add(node, why)
			continue
		}
		good = append(good, e)
	}
	stored, err := s.flows.Append(good)
	if err != nil {
		return nil, s.failure(ctx, "send-flows", err)
	}
	s.figures.stored.Add(uint64(stored))
	receipt.Stored, receipt.Duplicates = stored, len(good)-stored
	if err := s.keepSealed(ctx, node, sealed, receipt); err != nil {
		return nil, s.failure(ctx, "send-flows", err)
	}
	return &flowAnswer{receipt}, nil
}

// refusal tells why a node may not write a line, "" when it may.
func (s *Server) refusal(e *api.FlowEnvelope, size int, now time.Time) (why string) {
	switch e.Kind {
	case api.KindOfSeal:
		return ""
	case api.KindOfQuery:
		return s.mayRecordQuery(e, size, now)
	}
	return s.mayRecord(e, size, now)
}

// mayRecord tells why a node may not write a record, "" when it may: one of its own, of a time that the log keeps, about what the
// node has or had to do with. Whose it is the server says, whatever the envelope does.
func (s *Server) mayRecord(e *api.FlowEnvelope, size int, now time.Time) (why string) {
	var r api.FlowRecord
	switch {
	case e.Kind != api.KindOfFlow:
		return "a kind of record that is not known here"
	case size > flowlog.MaxRecord, !evidence.GoodBoot(e.Boot), e.Seq == 0:
		return "an envelope that is too large, or lacks boot or number"
	case json.Unmarshal(e.Record, &r) != nil, r.Node != e.Node, r.Boot != e.Boot, r.Sequence != e.Seq, !r.End.Equal(e.End):
		return "a record that is not the envelope's"
	case e.End.After(now.Add(maxAhead)), s.expired(api.RetainFlowRecords, e.End):
		return "a time that is not kept"
	}
	if v := s.store.Snapshot().VPCs[r.VPC]; v != nil && v.Account != r.Account {
		return "another account's VPC"
	}
	said := r
	if e.Accounts, why = s.hub.accountsOf(e.Node, &r, s.cfg.ViewMaxAge+maxAhead); why != "" || r == said {
		return why
	}
	body, err := json.Marshal(&r)
	if err != nil || size+len(body)-len(e.Record) > flowlog.MaxRecord {
		return "a record that is too large"
	}
	e.Record = body
	return ""
}

type flowFilter struct {
	Since      time.Time `query:"since" doc:"Records that ended at or after this time"`
	Until      time.Time `query:"until" doc:"Records that ended before this time"`
	Action     string    `query:"action" enum:"ACCEPT,REJECT" doc:"What became of the flow"`
	ENI        string    `query:"eni" doc:"Network interface, id or name"`
	Endpoint   string    `query:"endpoint" doc:"Endpoint, id or name"`
	Connection string    `query:"connection" doc:"Endpoint connection, id"`
	Service    string    `query:"service" doc:"Endpoint service, id, name or ACCOUNT/NAME"`
	Reason     string    `query:"reason" doc:"Of the datapath, such as FORWARDED"`
	VPC        string    `query:"vpc" doc:"VPC, id or name"`
	Address    string    `query:"address" doc:"On either side"`
	Port       uint16    `query:"port" doc:"On either side"`
	Limit      int       `query:"limit" minimum:"0" maximum:"1000000" doc:"The newest so many; 0: 1000"`
	Follow     bool      `query:"follow" doc:"Go on with new records as they come"`
}

func (s *Server) queryFlows(ctx context.Context, in *flowFilter) (*huma.StreamResponse, error) {
	c := s.newCall(ctx, s.store.Snapshot())
	err := c.chooseAccount()
	if err != nil {
		return nil, s.failure(ctx, "query-flows", err)
	}
	q, err := c.flowQuery(in)
	if err != nil {
		return nil, s.failure(ctx, "query-flows", err)
	}
	s.noteRead(ctx, c, "query-flows", "")
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
		err := s.flows.Query(ctx, c.account, q, func(e api.FlowEnvelope) error {
			return while(func() error { return out.send(e) })
		}, func() error { return while(out.caughtUp) }, wake)
		if err != nil {
			s.log.Debug("flow query ended", logkey.RequestID, requestID(ctx), logkey.Error, err)
		}
	}}, nil
}

// ring wakes at every keep-alive until ctx ends, and cancels when the server stops.
func (s *Server) ring(ctx context.Context, cancel context.CancelFunc, wake chan<- struct{}) {
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		select {
		case <-alive.C:
			select {
			case wake <- struct{}{}:
			default:
			}
		case <-s.stopping:
			cancel()
			return
		case <-ctx.Done():
			return
		}
	}
}

// keyStands reports whether a key still authenticates; a stream ends with its key.
func (s *Server) keyStands(k *api.APIKey) bool {
	have := s.store.Snapshot().APIKeys[k.ID]
	return have != nil && have.Hash == k.Hash
}

// flowQuery turns names into ids, which is what records hold. An id need not exist any more: its records do.
func (c *call) flowQuery(in *flowFilter) (q api.FlowQuery, err error) {
	q = api.FlowQuery{Follow: in.Follow, FlowFilter: api.FlowFilter{Since: in.Since, Until: in.Until, Action: in.Action,
		Connection: in.Connection, Reason: in.Reason, Address: in.Address, Port: in.Port, Limit: in.Limit}}
	if q.Interface, err = idOf(c, c.r.ENIs, api.KindENI, "eni", in.ENI); err != nil {
		return q, err
	}
	if q.Endpoint, err = idOf(c, c.r.Endpoints, api.KindEndpoint, "endpoint", in.Endpoint); err != nil {
		return q, err
	}
	if q.VPC, err = idOf(c, c.r.VPCs, api.KindVPC, "vpc", in.VPC); err != nil {
		return q, err
	}
	q.Service = in.Service
	if owner, name, ok := strings.Cut(in.Service, "/"); ok {
		if a := accountByRef(c.r, owner); a != nil {
			q.Service = a.Name + "/" + name
		}
		return q, nil
	}
	q.Service, err = idOf(c, c.r.Services, api.KindService, "service", in.Service)
	return q, err
}

func idOf[T api.Resource](c *call, all map[string]T, kind api.Kind, field, ref string) (string, error) {
	if k, err := api.ParseID(ref); ref == "" || err == nil && k == kind {
		return ref, nil
	}
	res, err := find(c, all, kind, field, ref, nil)
	if err != nil {
		return "", err
	}
	return res.GetMeta().ID, nil
}
