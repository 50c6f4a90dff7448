package delivery

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// DefaultReserve is what delivery leaves free of the server's disk, in bytes: more than the store, which refuses every write where it has
// less than 80 MiB, and than what nodes send in some minutes.
const DefaultReserve = 512 << 20

// Room bounds what stands in the accounts' directories of the server. The zero value bounds nothing.
type Room struct {
	// Dir has a directory for each account.
	Dir string
	// PerAccount is how many bytes of files each may have; 0: any.
	PerAccount int64
	// Reserve is how much of the file system stays free; 0: none.
	Reserve int64

	mu   sync.Mutex
	used map[string]int64 // by account, once it was counted
}

// Free refuses what would be written while the disk of a directory is nearly full.
func (r *Room) Free(dir string) error {
	if r == nil || r.Reserve == 0 {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("room in %s: %w", dir, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < r.Reserve {
		return fmt.Errorf("the server's disk is nearly full: it has %d MiB left, and %d are not for flow logs", free>>20, r.Reserve>>20)
	}
	return nil
}

// take makes a file's place count for an account, or says that it has none left. Size may be below 0: it is gone.
func (r *Room) take(account string, size int64) error {
	if r == nil || r.PerAccount == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	have, err := r.count(account)
	if err != nil {
		return err
	}
	if size > 0 && have+size > r.PerAccount {
		return fmt.Errorf("the account's files of flow logs have %d MiB, which is all that it may have: have old ones removed, or deliver to a bucket",
			have>>20)
	}
	r.used[account] = max(have+size, 0)
	return nil
}

// count is what an account's files have; the lock is held.
func (r *Room) count(account string) (int64, error) {
	if n, known := r.used[account]; known {
		return n, nil
	}
	sum := int64(0)
	err := filepath.WalkDir(filepath.Join(r.Dir, account), func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			sum += info.Size()
		}
		return ignoreGone(err)
	})
	if err != nil {
		return 0, fmt.Errorf("count the files of account %s: %w", account, err)
	}
	if r.used == nil {
		r.used = map[string]int64{}
	}
	r.used[account] = sum
	return sum, nil
}

// Recount has all counted anew when it is needed next: files may be removed by hand.
func (r *Room) Recount() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = nil
}

// Used is what the files of accounts have that were counted, in bytes.
func (r *Room) Used() map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]int64{}
	for account, n := range r.used {
		out[account] = n
	}
	return out
}

// sizeIn is a file's size, 0 where there is none.
func sizeIn(root *os.Root, name string) (int64, error) {
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
