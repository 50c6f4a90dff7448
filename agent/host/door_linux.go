package host

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// door closes and opens links of one namespace. Table "netdev culvert" holds one chain per closed link, named like the
// link.
type door struct{ ruleset }

func newDoor(namespace *os.File) door { return door{ruleset{namespace, nftables.TableFamilyNetdev}} }

// shut tells whether a chain drops all that comes in by the device of its own name.
func (c chain) shut() bool {
	return c.based && c.device == c.name && c.kind == chainFilterType &&
		c.hook == netdevIngress && c.policy == nfDrop && c.use == 0
}

// state reads all doors: name of the link → closed. A name that is absent has no chain; false means that the chain is
// there but would let something through.
func (d door) state() (map[string]bool, error) {
	asleep, there, err := d.inspect()
	if err != nil || !there {
		return nil, err
	}
	chains, err := d.chains()
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(chains))
	for _, c := range chains {
		out[c.name] = c.shut() && !asleep
	}
	return out, nil
}

func (d door) closed(ifname string) (bool, error) {
	s, err := d.state()
	return s[ifname], err
}

// close shuts the door of an existing link. It makes a chain anew that is not as it should be.
func (d door) close(ifname string) error {
	s, err := d.state()
	if err != nil {
		return err
	}
	shut, there := s[ifname]
	if shut {
		return nil
	}
	if err := d.wake(); err != nil {
		return fmt.Errorf("close door of %s: %w", ifname, err)
	}
	c, err := d.conn()
	if err != nil {
		return err
	}
	t := c.AddTable(d.table())
	if there {
		old := &nftables.Chain{Name: ifname, Table: t}
		c.FlushChain(old)
		c.DelChain(old)
	}
	policy := nftables.ChainPolicyDrop
	c.AddChain(&nftables.Chain{
		Name: ifname, Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress,
		Priority: nftables.ChainPriorityRef(doorPriority), Device: ifname, Policy: &policy,
	})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("close door of %s: %w", ifname, err)
	}
	if shut, err = d.closed(ifname); err != nil {
		return err
	} else if !shut {
		return fmt.Errorf("close door of %s: %w: the kernel's chain is not what was asked for", ifname, ErrOpenDoor)
	}
	return nil
}

// forget removes a link's chain; call it once the link is gone.
func (d door) forget(ifname string) error {
	s, err := d.state()
	if err != nil {
		return err
	}
	if _, there := s[ifname]; !there {
		return nil
	}
	c, err := d.conn()
	if err != nil {
		return err
	}
	t := d.table()
	old := &nftables.Chain{Name: ifname, Table: t}
	c.FlushChain(old)
	c.DelChain(old)
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove door of %s: %w", ifname, err)
	}
	return nil
}
