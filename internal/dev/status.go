package dev

import (
	"os"
	"time"

	"github.com/culvert-net/culvert/internal/netns"
)

// Status is the mesh in one look.
type Status struct {
	Processes []ProcessStatus  `json:"processes"`
	Workloads []WorkloadStatus `json:"workloads"`
}

// ProcessStatus is one process.
type ProcessStatus struct {
	Host    string    `json:"host"`
	Process string    `json:"process"`
	State   string    `json:"state"` // running, starting or dead
	PID     int       `json:"pid,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Netns   string    `json:"netns"`
	Address string    `json:"address"` // on the underlay
	Log     string    `json:"log"`
}

// WorkloadStatus is one workload.
type WorkloadStatus struct {
	Workload
	State string `json:"state"` // present or missing: the namespace
}

// Status looks at the mesh.
func (l *Lab) Status() (*Status, error) {
	r, err := l.Load()
	if err != nil {
		return nil, err
	}
	addresses := map[string]string{"server": serverAddress.String()}
	for _, h := range r.Hosts {
		addresses[h.Name] = h.Address.String()
	}
	s := &Status{Processes: []ProcessStatus{}, Workloads: []WorkloadStatus{}}
	for _, p := range l.processes(r) {
		ps := ProcessStatus{
			Host: p.host, Process: p.role, State: "dead", Netns: p.netns, Address: addresses[p.host], Log: p.log,
		}
		if id, ok := p.running(); ok {
			ps.State, ps.PID = "starting", id.PID
			if _, err := os.Stat(p.readyFile()); err == nil {
				ps.State = "running"
			}
			if info, err := os.Stat(p.pidFile()); err == nil {
				ps.Since = info.ModTime().UTC().Truncate(time.Second)
			}
		}
		s.Processes = append(s.Processes, ps)
	}
	for _, w := range r.Workloads {
		ws := WorkloadStatus{Workload: w, State: "missing"}
		if netns.Exists(netns.Path(w.Name)) {
			ws.State = "present"
		}
		s.Workloads = append(s.Workloads, ws)
	}
	return s, nil
}

// Running reports whether every process runs.
func (s *Status) Running() bool {
	for _, p := range s.Processes {
		if p.State != "running" {
			return false
		}
	}
	return true
}
