package api

import (
	"time"
)

// TargetState is AWS's TargetHealthStateEnum.
type TargetState string

// TargetReason says why a target is in its state.
type TargetReason string

// TargetHealth is a target's health as the node that hosts it last said, or the server knows it.
type TargetHealth struct {
	TargetGroup string       `json:"targetGroupId"`
	ENI         string       `json:"eniId"`
	Port        uint16       `json:"port"`
	State       TargetState  `json:"state"`
	Reason      TargetReason `json:"reason,omitempty"`
	Description string       `json:"description,omitempty"` // in words
	Since       time.Time    `json:"since,omitzero"`
}

// HealthTransition is one change of a target's health.
type HealthTransition struct {
	TargetGroup string       `json:"targetGroupId"`
	ENI         string       `json:"eniId"`
	Port        uint16       `json:"port"`
	At          time.Time    `json:"at"`
	From        TargetState  `json:"from,omitempty"`
	To          TargetState  `json:"to"`
	Reason      TargetReason `json:"reason,omitempty"`
	Description string       `json:"description,omitempty"`
}
