package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/logkey"
)

// openQuestions is the file beside the local socket in which questions are counted that are in no record yet. /run is in memory and ends
// with the boot, as what is counted does.
const openQuestions = "questions"

// openQuestionsOf are the counts of an agent, or none: then what is open when it is killed is not declared.
func openQuestionsOf(cfg Config, node string) *openCounts {
	boot, err := bootID()
	if err != nil {
		cfg.Log.Warn("questions that wait for the disk are not counted", logkey.Error, err)
		return nil
	}
	counts, err := openCountsFile(cfg.LocalSocket, boot+" "+node)
	if err != nil {
		cfg.Log.Warn("questions that wait for the disk are not counted", logkey.Error, err)
	}
	return counts
}

// openCountsFile maps the counts that lie beside a socket.
func openCountsFile(socket, whose string) (*openCounts, error) {
	const size = openWords * 8
	f, err := os.OpenFile(filepath.Join(filepath.Dir(socket), openQuestions), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// All of it has to be there: a page that cannot be had when it is touched ends the process.
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		return nil, fmt.Errorf("make %s: %w", f.Name(), err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	return countOpen(unsafe.Slice((*uint64)(unsafe.Pointer(&mem[0])), openWords), whose), nil
}
