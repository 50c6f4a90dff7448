package controlplane

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/controlplane/evidence"
)

// sealRuns are segments of nodes, by their numbers within a boot.
type sealRuns map[string]map[string][]leaf.Run // by node and boot

func (r sealRuns) add(x leaf.Run) {
	if r[x.Node] == nil {
		r[x.Node] = map[string][]leaf.Run{}
	}
	list := r[x.Node][x.Boot]
	if n := len(list); n > 0 && list[n-1].Last+1 == x.First {
		list[n-1].Last = x.Last
		return
	}
	r[x.Node][x.Boot] = append(list, x)
}

// has tells whether all segments of a node that others names are in these.
func (r sealRuns) has(node string, others sealRuns) bool {
	for boot, want := range others[node] {
		have := slices.SortedFunc(slices.Values(r[node][boot]), func(a, b leaf.Run) int { return cmp.Compare(a.First, b.First) })
		for _, w := range want {
			next := w.First // the first that was not found yet
			for _, h := range have {
				if h.First <= next && h.Last >= next {
					next = h.Last + 1
				}
			}
			if next <= w.Last {
				return false
			}
		}
	}
	return true
}

// chosen are the files of nodes that concern one of the accounts. A node is left out only if all of what the log says that it sealed in the
// span is here, or was disposed of, and none of it mentions them: so one whose files are gone is in the copy, and verification of the
// copy misses them.
func (x *copying) chosen(ctx context.Context, files []evidence.File) ([]evidence.File, error) {
	if len(x.manifest.Accounts) == 0 {
		return files, nil
	}
	sealed, there, err := x.sealedRuns(ctx)
	if err != nil {
		return nil, err
	}
	byNode := map[string][]*evidence.File{}
	for i := range files {
		byNode[files[i].Node] = append(byNode[files[i].Node], &files[i])
	}
	nodes := map[string]bool{}
	for node, list := range byNode {
		if nodes[node], err = x.mentioned(list, there); err != nil {
			return nil, err
		}
	}
	for node := range sealed {
		nodes[node] = nodes[node] || !there.has(node, sealed)
	}
	maps.DeleteFunc(nodes, func(_ string, in bool) bool { return !in })
	x.manifest.Nodes = append([]string{}, slices.Sorted(maps.Keys(nodes))...) // none is not the same as all
	return slices.DeleteFunc(files, func(f evidence.File) bool { return !nodes[f.Node] }), nil
}

// mentioned tells whether a node's files have one of the accounts. Of those that do not, what they hold is added to there.
func (x *copying) mentioned(files []*evidence.File, there sealRuns) (bool, error) {
	for _, f := range files {
		has, err := f.Mentions(x.manifest.Accounts...)
		if err != nil || has {
			return has, err
		}
		runs, err := f.Runs()
		if err != nil {
			return false, err
		}
		for _, r := range runs {
			there.add(r)
		}
		if err := x.out.caughtUp(); err != nil {
			return false, err
		}
	}
	return false, nil
}

// sealedRuns are the segments that the log has of the copy's span, and those of any time that were disposed of.
func (x *copying) sealedRuns(ctx context.Context) (sealed, disposed sealRuns, err error) {
	sealed, disposed = sealRuns{}, sealRuns{}
	errEnd := errors.New("end")
	err = x.s.tree.Leaves(ctx, 0, func(index uint64, l leaf.Leaf) error {
		switch {
		case index >= x.manifest.TreeSize:
			return errEnd
		case l.Seal != nil && !l.Seal.End.Before(x.manifest.Since) && l.Seal.End.Before(x.manifest.Until):
			sealed.add(leaf.Run{Node: l.Seal.Node, Boot: l.Seal.Boot, First: l.Seal.Number, Last: l.Seal.Number})
		case l.Disposal != nil:
			for _, r := range l.Disposal.Runs {
				disposed.add(r)
			}
		}
		return nil
	})
	if errors.Is(err, errEnd) {
		err = nil
	}
	return sealed, disposed, err
}
