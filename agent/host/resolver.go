package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/failpoint"
)

// resolvers keeps the resolv.conf files that `ip netns exec NAME` binds over /etc/resolv.conf: DIR/NAME/resolv.conf.
// The first line of a file of ours says whose it is and which directories were made for it, so nothing else is
// remembered.
type resolvers struct {
	run string // directory of named namespaces
	etc string // directory of their files
	// host is the cookie of the namespace that the agent has as the host's, which its files name: agents of a dev mesh share
	// the directory. 0: files name none.
	host uint64
}

// owned tells what is to be taken away by whose it is; "": a file does not say, having been cut short; host 0: it does not
// say which agent's.
type owned func(eni string, host uint64) bool

// of tells what is an ENI's ("": any ENI's) and this host's, or may be.
func (r resolvers) of(eni string) owned {
	return func(its string, host uint64) bool {
		return (eni == "" || its == "" || its == eni) && (host == r.host || host == 0)
	}
}

const resolvConf = "resolv.conf"

// space is the name of the namespace at path, "" for one that has no name and so no file.
func (r resolvers) space(path string) string {
	dir, name := filepath.Split(path)
	if real, err := filepath.EvalSymlinks(filepath.Clean(dir)); err == nil {
		dir = real
	}
	run := r.run
	if real, err := filepath.EvalSymlinks(run); err == nil {
		run = real
	}
	if filepath.Clean(dir) != run || name == "" || name == "." || name == ".." {
		return ""
	}
	return name
}

func (r resolvers) file(name string) string { return filepath.Join(r.etc, name, resolvConf) }

// saved is where a file that was there before is kept. Not in the namespace's own directory: every file there is bound
// over one of /etc.
func (r resolvers) saved(name string) string {
	return filepath.Join(r.etc, ".culvert-"+name+"."+resolvConf)
}

// set writes the file of the namespace at path. It leaves alone a namespace without a name, and one whose file another
// attachment has written.
func (r resolvers) set(s WorkloadSpec) error {
	name := r.space(s.Netns)
	if name == "" || !s.Resolver.IsValid() {
		return nil
	}
	var err error
	for range 3 { // another agent that shares the directory may have taken away what it found half made
		if err = r.setNamed(name, s); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("resolver file of %s: %w", name, err)
	}
	return nil
}

func (r resolvers) setNamed(name string, s WorkloadSpec) error {
	owner, _, made, err := r.owner(name)
	if err != nil || owner != "" && owner != s.ENI {
		return err
	}
	if owner == "" {
		if made, err = r.prepare(name, s); err != nil {
			return err
		}
	}
	return r.write(name, resolverText(s.ENI, r.host, made, s.Resolver, s.Search))
}

// note is the file to be, and until it has its name the word of what was made for it, should this process die.
func (r resolvers) note(name string) string { return filepath.Join(r.etc, notePrefix+name) }

const notePrefix = ".culvert-new-"

// prepare makes the directories, says how many, and keeps a file that is there aside.
func (r resolvers) prepare(name string, s WorkloadSpec) (made int, err error) {
	if b, err := os.ReadFile(r.note(name)); err == nil { // somebody died here
		_, _, before := parseResolver(string(b))
		if err := r.undo(name, before); err != nil {
			return 0, err
		}
	}
	dir := filepath.Dir(r.file(name))
	for _, d := range []string{r.etc, dir} {
		if _, err := os.Stat(d); errors.Is(err, fs.ErrNotExist) {
			made++
		}
	}
	if err := os.MkdirAll(r.etc, 0o755); err != nil {
		return made, err
	}
	if err := r.put(name, resolverText(s.ENI, r.host, made, s.Resolver, s.Search)); err != nil {
		return made, err
	}
	failpoint.Here("resolver.noted")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return made, err
	}
	failpoint.Here("resolver.made-directory")
	if err := os.Remove(r.saved(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return made, err
	}
	if err := os.Link(r.file(name), r.saved(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return made, err
	}
	failpoint.Here("resolver.kept-aside")
	return made, nil
}

func (r resolvers) write(name, text string) error {
	if have, err := os.ReadFile(r.file(name)); err == nil && string(have) == text {
		return nil
	}
	if err := r.put(name, text); err != nil {
		return err
	}
	return os.Rename(r.note(name), r.file(name))
}

// put writes the note. It is locked until it is whole: so others know it from one that is cut short.
func (r resolvers) put(name, text string) error {
	f, err := r.lockNote(name, os.O_CREATE|os.O_WRONLY, unix.LOCK_EX)
	if err != nil {
		return err
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteString(text)
	}
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// lockNote opens and locks the note. One that another agent took away meanwhile, having found it empty, is not it any more.
func (r resolvers) lockNote(name string, flags, how int) (*os.File, error) {
	for {
		f, err := os.OpenFile(r.note(name), flags, 0o644)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), how)
		if err == nil {
			var locked, named fs.FileInfo
			if locked, err = f.Stat(); err == nil {
				named, err = os.Lstat(f.Name())
			}
			if err == nil && os.SameFile(locked, named) {
				return f, nil
			}
		}
		f.Close()
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && flags&os.O_CREATE != 0) {
			return nil, err
		}
	}
}

// owner reads whose file the namespace has: "" for none or a person's.
func (r resolvers) owner(name string) (eni string, host uint64, made int, err error) {
	b, err := os.ReadFile(r.file(name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return "", 0, 0, nil
	} else if err != nil {
		return "", 0, 0, err
	}
	eni, host, made = parseResolver(string(b))
	return eni, host, made, nil
}

// restore puts back what was there before files were written, in whichever namespaces.
func (r resolvers) restore(which owned) error {
	dirs, err := os.ReadDir(r.etc)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("resolver files: %w", err)
	}
	for _, d := range dirs {
		if name, unfinished := strings.CutPrefix(d.Name(), notePrefix); unfinished {
			if err := r.giveUp(name, which); err != nil {
				return fmt.Errorf("resolver file of %s: %w", name, err)
			}
		}
		if !d.IsDir() {
			continue
		}
		owner, host, made, err := r.owner(d.Name())
		if err == nil && owner != "" && which(owner, host) {
			err = r.putBack(d.Name(), made)
		}
		if err != nil {
			return fmt.Errorf("resolver file of %s: %w", d.Name(), err)
		}
	}
	return nil
}

// giveUp takes back what was made for a file of an ENI that never got its name. It holds the note's lock meanwhile, and leaves
// alone one that a process writes.
func (r resolvers) giveUp(name string, which owned) error {
	f, err := r.lockNote(name, os.O_RDONLY, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	of, host, made := parseResolver(string(b))
	if !which(of, host) {
		return nil
	}
	owner, _, _, err := r.owner(name)
	if err != nil {
		return err
	}
	if owner != "" { // the note was to replace it
		return os.Remove(r.note(name))
	}
	return r.undo(name, made)
}

// undo puts back what is kept aside, and removes what was made and, last, the note that says so.
func (r resolvers) undo(name string, made int) error {
	var err error
	if _, errThere := os.Lstat(r.file(name)); errors.Is(errThere, fs.ErrNotExist) {
		err = os.Rename(r.saved(name), r.file(name))
	} else { // a person's, and what is aside the same file
		err = os.Remove(r.saved(name))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	failpoint.Here("resolver.put-back")
	// Directories made for the file go, unless a person put something into them.
	if made >= 1 {
		_ = os.Remove(filepath.Dir(r.file(name)))
	}
	if err := os.Remove(r.note(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if made >= 2 {
		_ = os.Remove(r.etc)
	}
	return nil
}

// RestoreResolver puts back what was in the directory etc (Config.EtcNetns) before an agent wrote the file of an ENI there,
// for when no agent is left to do so. Without such a file it does nothing.
func RestoreResolver(etc, eni string) error {
	if eni == "" {
		return fmt.Errorf("resolver files: no ENI is named: %w", ErrSpec)
	}
	return resolvers{etc: etc}.restore(func(its string, _ uint64) bool { return its == "" || its == eni })
}

// putBack takes our file away; as a note it goes on saying what was made for it.
func (r resolvers) putBack(name string, made int) error {
	if err := os.Rename(r.file(name), r.note(name)); err != nil {
		return err
	}
	failpoint.Here("resolver.before-back")
	return r.undo(name, made)
}

const resolverMark = "# " + aliasPrefix

// resolverText is the file. made is how many directories were made for it: 0, 1 (its own), 2 (the one above, too); host is
// as in resolvers.
func resolverText(eni string, host uint64, made int, resolver netip.Addr, search string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s made %d", resolverMark, eni, made)
	if host != 0 {
		fmt.Fprintf(&b, " host %d", host)
	}
	b.WriteString("\n# What was here before is put back when the interface is detached.\n")
	if s := strings.Join(strings.Fields(search), " "); s != "" {
		fmt.Fprintf(&b, "search %s\n", s)
	}
	fmt.Fprintf(&b, "nameserver %s\n", resolver)
	return b.String()
}

// parseResolver reads the first line back; eni is "" if the text is not ours, host 0 if it names none.
func parseResolver(text string) (eni string, host uint64, made int) {
	line, _, _ := strings.Cut(text, "\n")
	rest, ok := strings.CutPrefix(line, resolverMark)
	if !ok {
		return "", 0, 0
	}
	if n, err := fmt.Sscanf(rest, "%s made %d host %d", &eni, &made, &host); err != nil && n < 2 {
		return "", 0, 0
	}
	return eni, host, made
}
