package api

// Stage is one step of an explanation.
type Stage struct {
	Name   string `json:"stage"` // source, name, destination, egress, endpoint, listener, target, path, connection, receiver, …
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"` // of the datapath when not OK
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

// Explanation lists the stages that a new flow would meet, up to the one that decides.
type Explanation struct {
	Allowed bool    `json:"allowed"`
	Address string  `json:"address,omitempty"` // that the name leads to, on its node
	Stages  []Stage `json:"stages"`
}
