package controlplane

import (
	"net/http"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/history"
	"github.com/culvert-net/culvert/controlplane/store"
)

func (s *Server) registerAuditShow() {
	reading(s, operation{http.MethodGet, "/v1/audit/resources/{id}", "get-audited-resource",
		"A resource as it was at some time, what decided over it, and by whose doing", aUser}, showAudited)
}

// showAudited answers from the audit events that the store keeps.
func showAudited(c *call, in *struct {
	ByID
	At time.Time `query:"at" doc:"The time; now where it is left out"`
}) (*api.AuditedState, error) {
	kind, err := api.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	at := in.At
	if at.IsZero() {
		at = c.now
	}
	c.s.noteRead(c.ctx, c, "get-audited-resource", in.ID)
	out, err := history.Show(in.ID, at.UTC(), func(id string) (*history.State, error) {
		state := &history.State{}
		err := c.s.eachAudit(c.ctx, store.AuditPrefixOn(id), 0, 0, func(e *api.AuditEvent) bool {
			if e.At.After(at) {
				return true
			}
			for i := range e.Changes {
				if change := &e.Changes[i]; change.ID == id {
					if !c.seesAll() {
						hideOthers(e, c.account)
					}
					return !state.Older(e, change)
				}
			}
			return true
		})
		if !c.seesAll() && state.Account() != c.account {
			return nil, err
		}
		return state, err
	})
	if err == nil && out == nil {
		return nil, api.NotFound(kind, "id", in.ID)
	}
	return out, err
}

// seesAll: an administrator who acts for no account.
func (c *call) seesAll() bool { return c.account == "" && c.who.admin() }

// hideOthers takes out of an event who did it, where that is another account, and who of the administrators.
func hideOthers(e *api.AuditEvent, account string) {
	if e.Account == account || e.Role == api.RoleSystem {
		return
	}
	if e.Role != api.RoleAdmin {
		e.Role = ""
	}
	e.Actor, e.ActorName, e.Source, e.RequestID, e.Resource = "", "", "", "", ""
}
