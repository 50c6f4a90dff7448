package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/google/nftables"
	nfnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// doorTable is the nftables table of family netdev that holds one chain per closed link, named like the link.
const doorTable = "culvert"

// Numbers of linux/netfilter/nf_tables.h that x/sys/unix lacks or that are written here for what they mean.
const (
	nfDrop           = 0             // NF_DROP of linux/netfilter.h
	nfAccept         = 1             // NF_ACCEPT
	netdevIngress    = 0             // NF_NETDEV_INGRESS
	tableDormant     = 0x1           // NFT_TABLE_F_DORMANT: the table's hooks are not run
	doorPriority     = math.MinInt32 // before any other ingress chain: a chain that forwards must not come first
	nfgenmsgLen      = 4
	chainFilterType  = "filter"
	nfnetlinkVersion = 0
)

// door closes and opens links of one namespace.
type door struct{ file *os.File }

// chain is what matters of a chain of the table.
type chain struct {
	name, device, kind string
	hook, policy, use  uint32
	based              bool // has a hook
}

// shut tells whether a chain drops all that comes in by the device of its own name.
func (c chain) shut() bool {
	return c.based && c.device == c.name && c.kind == chainFilterType &&
		c.hook == netdevIngress && c.policy == nfDrop && c.use == 0
}

// state reads all doors: name of the link → closed. A name that is absent has no chain; false means that the chain is
// there but would let something through.
func (d door) state() (map[string]bool, error) {
	asleep, there, err := d.table()
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
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: doorTable})
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

// wake clears the dormant flag of the table, if it is there and has it. The kernel wants that in a transaction of its
// own.
func (d door) wake() error {
	asleep, _, err := d.table()
	if err != nil || !asleep {
		return err
	}
	c, err := d.conn()
	if err != nil {
		return err
	}
	c.AddTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: doorTable})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("wake nftables table %s: %w", doorTable, err)
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
	t := &nftables.Table{Family: nftables.TableFamilyNetdev, Name: doorTable}
	old := &nftables.Chain{Name: ifname, Table: t}
	c.FlushChain(old)
	c.DelChain(old)
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove door of %s: %w", ifname, err)
	}
	return nil
}

// remove deletes the table, and with it every door.
func (d door) remove() error {
	_, there, err := d.table()
	if err != nil || !there {
		return err
	}
	c, err := d.conn()
	if err != nil {
		return err
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: doorTable})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nftables table %s: %w", doorTable, err)
	}
	return nil
}

func (d door) conn() (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithNetNSFd(int(d.file.Fd())))
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return c, nil
}

// table looks for the table and tells whether it is dormant.
func (d door) table() (asleep, there bool, err error) {
	err = d.list(unix.NFT_MSG_GETTABLE, func(ad *nfnl.AttributeDecoder) {
		var name string
		var flags uint32
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_TABLE_NAME:
				name = ad.String()
			case unix.NFTA_TABLE_FLAGS:
				flags = ad.Uint32()
			}
		}
		if name == doorTable {
			there, asleep = true, flags&tableDormant != 0
		}
	}, func() { asleep, there = false, false })
	return asleep, there, err
}

// chains lists the table's chains with their device, which google/nftables leaves out.
func (d door) chains() ([]chain, error) {
	var out []chain
	err := d.list(unix.NFT_MSG_GETCHAIN, func(ad *nfnl.AttributeDecoder) {
		c := chain{policy: nfAccept}
		var table string
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_CHAIN_TABLE:
				table = ad.String()
			case unix.NFTA_CHAIN_NAME:
				c.name = ad.String()
			case unix.NFTA_CHAIN_TYPE:
				c.kind = ad.String()
			case unix.NFTA_CHAIN_POLICY:
				c.policy = ad.Uint32()
			case unix.NFTA_CHAIN_USE:
				c.use = ad.Uint32()
			case unix.NFTA_CHAIN_HOOK:
				c.based = true
				ad.Nested(c.readHook)
			}
		}
		if table == doorTable {
			out = append(out, c)
		}
	}, func() { out = nil })
	return out, err
}

func (c *chain) readHook(ad *nfnl.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_HOOK_HOOKNUM:
			c.hook = ad.Uint32()
		case unix.NFTA_HOOK_DEV:
			c.device = ad.String()
		}
	}
	return nil
}

// list dumps objects of family netdev. It begins again, after calling again, when the ruleset changed meanwhile.
func (d door) list(msg int, each func(*nfnl.AttributeDecoder), again func()) error {
	c, err := nfnl.Dial(unix.NETLINK_NETFILTER, &nfnl.Config{NetNS: int(d.file.Fd())})
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	defer c.Close()
	req := nfnl.Message{
		Header: nfnl.Header{
			Type:  nfnl.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | msg),
			Flags: nfnl.Request | nfnl.Dump,
		},
		Data: []byte{unix.NFPROTO_NETDEV, nfnetlinkVersion, 0, 0},
	}
	for range dumpTries {
		again()
		replies, err := c.Execute(req)
		if errors.Is(err, unix.EINTR) || interrupted(replies) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list nftables: %w", err)
		}
		for _, r := range replies {
			if len(r.Data) < nfgenmsgLen {
				continue
			}
			ad, err := nfnl.NewAttributeDecoder(r.Data[nfgenmsgLen:])
			if err != nil {
				return fmt.Errorf("list nftables: %w", err)
			}
			ad.ByteOrder = binary.BigEndian
			each(ad)
			if err := ad.Err(); err != nil {
				return fmt.Errorf("list nftables: %w", err)
			}
		}
		return nil
	}
	return fmt.Errorf("list nftables: %w", unix.EINTR)
}

func interrupted(ms []nfnl.Message) bool {
	for _, m := range ms {
		if m.Header.Flags&nfnl.DumpInterrupted != 0 {
			return true
		}
	}
	return false
}
