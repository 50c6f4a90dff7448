package delivery

import (
	"time"
)

// Object is what is delivered as a whole: a file, or a batch of a stream.
type Object struct {
	FlowLog string `json:"flowLog"`
	Account string `json:"account"`
	// Destination is where it was put, with its type; of one that waits it is empty.
	Destination string    `json:"-"`
	Path        string    `json:"path"` // below the destination, with slashes
	File        string    `json:"file"` // in the spool
	Size        int64     `json:"size"`
	SHA256      string    `json:"sha256"` // hex
	Lines       int       `json:"lines"`
	Records     int       `json:"records"`
	First       time.Time `json:"first"` // oldest packet
	Last        time.Time `json:"last"`  // newest one
}
