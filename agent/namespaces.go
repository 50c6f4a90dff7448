package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/plan"
)

// Namespaces finds the network namespaces of this machine.
type Namespaces interface {
	// Open opens what is at a path now; host.ErrNoNamespace.
	Open(path string) (*Namespace, error)
	// Inode is that of what is at a path now; host.ErrNoNamespace.
	Inode(path string) (uint64, error)
}

// Namespace is an open network namespace. Until Close it lives, and no other has its inode.
type Namespace struct {
	plan.Namespace
	Inode uint64
	// Rooted: only root decides what the path leads to, so that whatever is there is meant.
	Rooted bool
	Close  func() error
	// Dial connects from inside.
	Dial func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
}

// errLost says that an attachment's namespace will not come again.
var errLost = errors.New("detached")

// lostKept bounds how many attachments that were lost the status shows.
const lostKept = 100

// lost is an attachment that was dropped because its namespace is gone.
type lost struct {
	plan.Attachment
	reason error
}

// namespaces looks where the attachments' paths lead now. It returns those whose namespace is there, with its inode, and
// what is wrong with the others.
//
// A namespace is told by its identity and held open while it is attached: a path in /proc leads to whatever has that
// process number, and an ENI must not go to another's process. Such an attachment ends with its namespace, or with the
// boot. A path that is root's, such as that of a named namespace, is the user's word for whatever root puts there: what
// is made anew under it, by a script or at boot, is attached anew. A path that others may change is followed to the
// namespace that was meant and no further.
func (a *Agent) namespaces() (here []plan.Attachment, inodes map[string]uint64, failed map[string]error) {
	a.spaces.Lock()
	defer a.spaces.Unlock()
	a.mu.Lock()
	all, held := slices.Clone(a.attachments), maps.Clone(a.held)
	a.mu.Unlock()
	inodes, failed = map[string]uint64{}, map[string]error{}
	for _, att := range all {
		ns, err := a.find(att, held[att.ENI])
		current, err := a.settle(att, ns, err)
		switch {
		case err != nil:
			failed[att.ENI] = err
		case current != nil:
			here = append(here, *current)
			inodes[att.ENI] = ns.Inode
		}
	}
	return here, inodes, failed
}

// find opens an attachment's namespace, or returns the one that is held when it is still at the path.
func (a *Agent) find(att plan.Attachment, held *Namespace) (*Namespace, error) {
	inode, err := a.edges.Namespaces.Inode(att.Netns)
	if err == nil && held != nil && held.Inode == inode {
		return held, nil
	}
	var ns *Namespace
	if err == nil {
		ns, err = a.edges.Namespaces.Open(att.Netns)
	}
	none := plan.Namespace{}
	ofProcess := att.Namespace.Process || att.Namespace == none && strings.HasPrefix(att.Netns, "/proc/")
	switch {
	case errors.Is(err, host.ErrNoNamespace) && ofProcess:
		return nil, fmt.Errorf("%w: %s is gone", errLost, att.Netns)
	case err != nil:
		return nil, err
	case same(ns.Namespace, att.Namespace), ns.Rooted && !ofProcess:
		return ns, nil
	case ofProcess:
		err = fmt.Errorf("%w: %s is another namespace by now", errLost, att.Netns)
	default:
		err = fmt.Errorf("%s is another namespace by now: attach again if that one is meant", att.Netns)
	}
	return nil, errors.Join(err, ns.Close())
}

// same tells whether two identities are of one namespace.
func same(x, y plan.Namespace) bool { return x.Cookie != 0 && x.Cookie == y.Cookie && x.Boot == y.Boot }

// settle acts on what find found: the namespace is held, or let go of, and a new identity, or that there is none any more,
// is noted durably. Nil: the attachment is no longer wanted.
func (a *Agent) settle(att plan.Attachment, ns *Namespace, err error) (*plan.Attachment, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.attachments, att)
	if i < 0 { // detached meanwhile
		return nil, a.discard(att.ENI, ns)
	}
	if err != nil {
		err = errors.Join(err, a.hold(att.ENI, nil))
		if errors.Is(err, errLost) {
			err = errors.Join(err, a.lose(lost{att, err}))
		}
		return nil, err
	}
	if !same(ns.Namespace, att.Namespace) {
		next := slices.Clone(a.attachments)
		next[i].Namespace = ns.Namespace
		if err := a.dir.SaveAttachments(next); err != nil {
			return nil, errors.Join(err, a.discard(att.ENI, ns))
		}
		a.attachments, att = next, next[i]
	}
	return &att, a.hold(att.ENI, ns)
}

// hold keeps the namespace of an ENI open, and lets go of the one before; nil: of none. With a.mu.
func (a *Agent) hold(eni string, ns *Namespace) (err error) {
	if before := a.held[eni]; before != nil && before != ns {
		err = before.Close()
	}
	if ns == nil {
		delete(a.held, eni)
	} else {
		a.held[eni] = ns
	}
	return err
}

// discard closes a namespace that is not held. With a.mu.
func (a *Agent) discard(eni string, ns *Namespace) error {
	if ns == nil || ns == a.held[eni] {
		return nil
	}
	return ns.Close()
}

// lose drops an attachment for good and remembers why, for the status. With a.mu.
func (a *Agent) lose(x lost) error {
	if err := a.drop(x.ENI); err != nil {
		return err
	}
	a.lost = append(a.lost, x)
	if len(a.lost) > lostKept {
		a.lost = slices.Delete(a.lost, 0, len(a.lost)-lostKept)
	}
	return nil
}

// forgetLost forgets that an ENI was lost. With a.mu.
func (a *Agent) forgetLost(eni string) {
	a.lost = slices.DeleteFunc(a.lost, func(x lost) bool { return x.ENI == eni })
}

// drop removes an attachment, durably; the loop then removes what it made. With a.mu.
func (a *Agent) drop(eni string) error {
	next := slices.DeleteFunc(slices.Clone(a.attachments), func(x plan.Attachment) bool { return x.ENI == eni })
	if len(next) < len(a.attachments) {
		if err := a.dir.SaveAttachments(next); err != nil {
			return unkept(err)
		}
		a.attachments = next
		a.leaving[eni] = true
	}
	return a.hold(eni, nil)
}

// release lets go of all namespaces.
func (a *Agent) release() error {
	a.spaces.Lock()
	defer a.spaces.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for eni := range a.held {
		errs = append(errs, a.hold(eni, nil))
	}
	return errors.Join(errs...)
}
