package host

import (
	"errors"
	"fmt"
	"os"
	"slices"
)

// seenByOthers says who else would see what is mounted in m: a process that is neither in the network namespace nor a child
// of this one. The host's own resolver is never covered.
func (p *process) seenByOthers(m mountPoint) (notice string, err error) {
	own, net, err := spacesOf(p.pid)
	if err != nil {
		return "", err
	}
	all, err := processes()
	if err != nil {
		return "", err
	}
	all = slices.Concat([]int{os.Getpid(), 1}, all)
	groups := propagation{}
	if m.peers != 0 {
		if notice, err := groups.read(all); notice != "" || err != nil {
			return notice, err
		}
	}
	reached := groups.from(m.peers)
	reached[own] = true
	for _, pid := range all {
		its, in, err := spacesOf(pid)
		if err != nil {
			return "", err
		}
		switch {
		case its == (fileID{}) || in == net || !reached[its]:
		case pid == 1 || pid == os.Getpid():
			return "it has the mounts of the host: give it its own (a unit: PrivateMounts=yes)", nil
		case !descends(pid, p.pid):
			return fmt.Sprintf("process %d, which is outside, would see the file too: give each mounts of its own", pid), nil
		}
	}
	return "", nil
}

// spacesOf tells the namespaces of a process; zero if it has ended or is hidden.
func spacesOf(pid int) (mnt, net fileID, err error) {
	if mnt, err = fileOf(pid, "ns/mnt"); err == nil {
		net, err = fileOf(pid, "ns/net")
	}
	return mnt, net, err
}

// propagation is, by mount namespace, which groups its mounts get mounts from and give them to.
type propagation map[fileID]map[passage]bool

// passage is a mount's: it gets from one group, or is in it, and gives to another; 0: to none.
type passage struct{ gets, gives uint64 }

// read looks at the mounts of processes. The notice says whose are too many to be looked at.
func (g propagation) read(all []int) (notice string, err error) {
	scan := newScanner()
	for _, pid := range all {
		mnt, err := fileOf(pid, "ns/mnt")
		if err != nil {
			return "", err
		}
		if mnt == (fileID{}) || g[mnt] != nil {
			continue
		}
		owned, err := scan.owned(pid, mnt)
		passages := map[passage]bool{}
		if err == nil {
			err = scan.each(pid, owned, func(m mountPoint) error {
				if m.peers != 0 {
					passages[passage{m.peers, m.peers}] = true
				}
				if m.master != 0 {
					passages[passage{m.master, m.peers}] = true
				}
				return nil
			})
		}
		switch {
		case errors.Is(err, errCrowded):
			return fmt.Sprintf("whether process %d would see the file too cannot be told, as it has too many mounts: "+
				"have its own mounts shared with nobody", pid), nil
		case passing(err):
			continue
		case err != nil:
			return "", err
		}
		g[mnt] = passages
	}
	return "", nil
}

// from tells the mount namespaces that get what is mounted in a group, by however many others.
func (g propagation) from(group uint64) map[fileID]bool {
	out, groups := map[fileID]bool{}, map[uint64]bool{group: group != 0}
	for more := true; more; {
		more = false
		for mnt, passages := range g {
			for p := range passages {
				if !groups[p.gets] {
					continue
				}
				out[mnt] = true
				if p.gives != 0 && !groups[p.gives] {
					groups[p.gives], more = true, true
				}
			}
		}
	}
	return out
}
