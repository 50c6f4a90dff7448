package bundle

import (
	_ "embed"
	"fmt"
	"html/template"
	"time"

	"github.com/culvert-net/culvert/api"
)

//go:embed page.html
var pageText string

// page has no script and refers to nothing outside itself; what it shows of others' making is escaped.
var page = template.Must(template.New("summary").Funcs(template.FuncMap{"stamp": stamp, "bytes": bytesText}).Parse(pageText))

// pageRows bounds each table of the page; the files beside it have all rows.
const pageRows = 50

// view is what the template shows.
type view struct {
	*Summary
	Transcript     string
	More, MoreLeft int // consumers and refusals that are not shown
	States         []state
}

// state is a policy in a few words.
type state struct {
	Policy
	Words string
}

func newView(s *Summary, transcript string) view {
	short := *s
	v := view{Summary: &short, Transcript: transcript}
	if n := len(s.Consumers); n > pageRows {
		short.Consumers, v.More = s.Consumers[:pageRows], n-pageRows
	}
	if n := len(s.Refused); n > pageRows {
		short.Refused, v.MoreLeft = s.Refused[:pageRows], n-pageRows
	}
	for _, p := range s.Policies {
		v.States = append(v.States, state{p, words(p)})
	}
	return v
}

// words tell of a policy what decides who gets in.
func words(p Policy) string {
	switch {
	case p.State == nil && p.Hash != "":
		return "too large to be shown: SHA-256 " + p.Hash
	case p.State == nil:
		return "removed"
	}
	switch p.Kind {
	case api.KindService:
		var s api.Service
		if decode(p, &s) {
			return fmt.Sprintf("allows %v, acceptance required: %v", s.AllowedPrincipals, s.AcceptanceRequired)
		}
	case api.KindConnection:
		var c api.Connection
		if decode(p, &c) {
			return fmt.Sprintf("%s, endpoint %s of account %s", c.State, c.Endpoint, c.EndpointAccount)
		}
	case api.KindSecurityGroup:
		var g api.SecurityGroup
		if decode(p, &g) {
			return fmt.Sprintf("%d rules in, %d out", len(g.Ingress), len(g.Egress))
		}
	}
	return ""
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

func bytesText(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
