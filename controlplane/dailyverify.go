package controlplane

import (
	"os"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/verify"
)

// verifyDay judges the server's own evidence of a day as an auditor would. What comes while it reads may seem to be missing: what is
// found must be found twice.
func (s *Server) verifyDay(from, to time.Time) (v api.Verification) {
	if s.cfg.Tree != nil { // of a test
		return api.Verification{NotDone: "the Merkle log is on no disk"}
	}
	keys, err := verify.ParseKeys(s.logKey.VerifierKey + "\n" + string(s.ca.PEM()))
	if err != nil {
		return api.Verification{NotDone: api.Shortened(oneLine(err.Error()))}
	}
	for range 2 {
		r := verify.Run(os.DirFS(s.evidenceDir()), keys, verify.Options{Since: from, Until: to})
		v = api.Verification{Good: r.OK}
		for _, f := range r.Findings[:min(len(r.Findings), api.MaxStatusNames)] {
			v.Findings = append(v.Findings, api.Shortened(oneLine(f.String())))
		}
		if r.OK {
			break
		}
	}
	return v
}
