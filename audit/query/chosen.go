package query

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// choice are the files that a query is answered from.
type choice struct {
	files []File
	// beside is how many files were passed over because evidence lies beside them, or another file has what they have.
	beside int
	// once: no line can be in two of them.
	once bool
}

// ofFlowLog finds account and flow log in the name of a delivered file.
var ofFlowLog = regexp.MustCompile(`(?:^|/)([0-9]+)_vpcflowlogs_[^/]*?_(fl-[0-9a-z]+)_\d{8}T\d{4}Z_[^/]*$`)

// choose leaves out files whose lines are in others of the same place: the packed one of an hour of evidence that is there twice, while
// it is packed and after a crash (verification reads the same one), everything beside segments where they are (a bundle's
// records, delivered files that are kept with them), and second copies of a delivered file, whose name tells what is in it.
//
// What accounts see of one flow differs, so of several accounts' files those of one are taken, or none.
func (q *Query) choose(files []File) (*choice, error) {
	names := make(map[string]bool, len(files))
	evidence := false
	for _, f := range files {
		names[f.Name] = true
		evidence = evidence || isSegment(f.Name)
	}
	out := &choice{}
	delivered := map[string]File{}
	origins := map[[2]string]bool{} // account and flow log; without, where names do not tell
	accounts := map[string]bool{}
	for _, f := range files {
		plain, packed := strings.CutSuffix(f.Name, ".gz")
		if packed && segmentName.MatchString(path.Base(f.Name)) && names[plain] || evidence && q.FlowLog == "" && !isSegment(f.Name) {
			out.beside++
			continue
		}
		m := ofFlowLog.FindStringSubmatch(f.Name)
		switch {
		case q.FlowLog != "" && (m == nil || m[2] != q.FlowLog):
			continue
		case m == nil:
			origins[[2]string{}] = true
			out.files = append(out.files, f)
			continue
		}
		base := path.Base(f.Name)
		if first, again := delivered[base]; again {
			if first.Size != f.Size {
				return nil, api.Errorf(api.CodeInvalidParameter, "--from", "remove the one that is damaged",
					"%s and %s have one name and are not of one size", first.Name, f.Name)
			}
			out.beside++
			continue
		}
		delivered[base] = f
		accounts[m[1]], origins[[2]string{m[1], m[2]}] = true, true
		out.files = append(out.files, f)
	}
	if err := q.ofOneAccount(out, accounts, origins); err != nil {
		return nil, err
	}
	if q.FlowLog != "" && len(out.files) == 0 {
		return nil, api.Errorf(api.CodeInvalidParameter, "--flow-log", "see the ids with culvert flow-log list",
			"no file's name has the flow log %s", q.FlowLog)
	}
	// A copy of evidence repeats nothing either.
	out.once = len(origins) == 1 && (!origins[[2]string{}] || evidence)
	return out, nil
}

// ofOneAccount takes the files of the account that is asked for where several accounts' are there.
func (q *Query) ofOneAccount(c *choice, accounts map[string]bool, origins map[[2]string]bool) error {
	if len(accounts) < 2 {
		return nil
	}
	if !accounts[q.Owner] {
		return api.Errorf(api.CodeInvalidCombination, "--from", "say with --account whose are to be read, or with --flow-log which",
			"the files are of flow logs of the accounts %v, which see one flow differently", slices.Sorted(maps.Keys(accounts)))
	}
	c.files = slices.DeleteFunc(c.files, func(f File) bool {
		m := ofFlowLog.FindStringSubmatch(f.Name)
		return m != nil && m[1] != q.Owner
	})
	maps.DeleteFunc(origins, func(o [2]string, _ bool) bool { return o[0] != "" && o[0] != q.Owner })
	return nil
}

// segmentName is that of a file of segments, at NODE/BOOT/HOUR of a directory.
var segmentName = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d\.ndjson(?:\.gz)?$`)

// isSegment tells whether a file is one of segments, of a source that is one copy of evidence.
func isSegment(name string) bool {
	return strings.HasPrefix(name, "segments/") && segmentName.MatchString(path.Base(name))
}
