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

// tableName is the name of both nftables tables of this package: "netdev culvert" and "inet culvert".
const tableName = "culvert"

// Numbers of linux/netfilter/nf_tables.h that x/sys/unix lacks or that are written here for what they mean.
const (
	nfDrop           = 0             // NF_DROP of linux/netfilter.h
	nfAccept         = 1             // NF_ACCEPT
	netdevIngress    = 0             // NF_NETDEV_INGRESS
	tableDormant     = 0x1           // NFT_TABLE_F_DORMANT: the table's hooks are not run
	doorPriority     = math.MinInt32 // before any other chain of the hook: one that forwards must not come first
	nfgenmsgLen      = 4
	chainFilterType  = "filter"
	nfnetlinkVersion = 0
)

// ruleset is the nftables table of this package in one family of one namespace.
type ruleset struct {
	file   *os.File
	family nftables.TableFamily
}

// chain is what matters of a chain of the table.
type chain struct {
	name, device, kind string
	hook, policy, use  uint32
	priority           int32
	based              bool // has a hook
}

func (r ruleset) conn() (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithNetNSFd(int(r.file.Fd())))
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return c, nil
}

func (r ruleset) table() *nftables.Table {
	return &nftables.Table{Family: r.family, Name: tableName}
}

// wake clears the dormant flag of the table, if it is there and has it. The kernel wants that in a transaction of its
// own.
func (r ruleset) wake() error {
	asleep, _, err := r.inspect()
	if err != nil || !asleep {
		return err
	}
	c, err := r.conn()
	if err != nil {
		return err
	}
	c.AddTable(r.table())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("wake nftables table %s: %w", tableName, err)
	}
	return nil
}

// remove deletes the table with all its chains.
func (r ruleset) remove() error {
	_, there, err := r.inspect()
	if err != nil || !there {
		return err
	}
	c, err := r.conn()
	if err != nil {
		return err
	}
	c.DelTable(r.table())
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nftables table %s: %w", tableName, err)
	}
	return nil
}

// inspect looks for the table and tells whether it is dormant.
func (r ruleset) inspect() (asleep, there bool, err error) {
	err = r.list(unix.NFT_MSG_GETTABLE, func(ad *nfnl.AttributeDecoder) {
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
		if name == tableName {
			there, asleep = true, flags&tableDormant != 0
		}
	}, func() { asleep, there = false, false })
	return asleep, there, err
}

// chains lists the table's chains with their device, which google/nftables leaves out.
func (r ruleset) chains() ([]chain, error) {
	var out []chain
	err := r.list(unix.NFT_MSG_GETCHAIN, func(ad *nfnl.AttributeDecoder) {
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
		if table == tableName {
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
		case unix.NFTA_HOOK_PRIORITY:
			c.priority = int32(ad.Uint32())
		case unix.NFTA_HOOK_DEV:
			c.device = ad.String()
		}
	}
	return nil
}

// list dumps objects of the family. It begins again, after calling again, when the ruleset changed meanwhile.
func (r ruleset) list(msg int, each func(*nfnl.AttributeDecoder), again func()) error {
	c, err := nfnl.Dial(unix.NETLINK_NETFILTER, &nfnl.Config{NetNS: int(r.file.Fd())})
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	defer c.Close()
	req := nfnl.Message{
		Header: nfnl.Header{
			Type:  nfnl.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | msg),
			Flags: nfnl.Request | nfnl.Dump,
		},
		Data: []byte{byte(r.family), nfnetlinkVersion, 0, 0},
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
		for _, m := range replies {
			if len(m.Data) < nfgenmsgLen {
				continue
			}
			ad, err := nfnl.NewAttributeDecoder(m.Data[nfgenmsgLen:])
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
