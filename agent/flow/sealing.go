package flow

import (
	"fmt"
	"time"

	"github.com/culvert-net/culvert/audit/seal"
)

// seal closes the lines since the last seal; the caller holds write.
func (l *Log) seal(w *writing, s *seal.Seal) error {
	if s.End.Before(w.chain.sealed) && s.Clock.SteppedMicros == 0 {
		s.Clock.SteppedMicros = s.End.Sub(w.chain.sealed).Microseconds() // while nobody looked
	}
	w.chain.close(s, l.cfg.Node)
	if err := s.Sign(l.cfg.Key); err != nil {
		return err
	}
	line, err := s.Line()
	if err != nil {
		return err
	}
	w.bytes.Write(line)
	w.lines++
	w.chain.closed(s, line)
	return nil
}

// closeBoot closes what a boot that ended has left open. Its counters went with it: what they had more than records is not known.
func (l *Log) closeBoot(w *writing) error {
	c := w.chain
	if c.boot == "" {
		c.boot = l.cfg.Boot
	}
	if c.boot == l.cfg.Boot {
		return nil
	}
	if c.lines > 0 || c.number > 0 {
		now := l.cfg.Now()
		s := &seal.Seal{End: now, Declared: []seal.Gap{{Cause: seal.CauseBoot, From: c.sealed, To: now}}}
		if err := l.seal(w, s); err != nil {
			return fmt.Errorf("close the boot before: %w", err)
		}
	}
	c.begin(l.cfg.Boot)
	return nil
}

// Open tells how many lines are in no sealed segment yet, and when the last seal was made.
func (l *Log) Open() (lines int, sealed time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open, l.sealed
}

// endBoot closes the boot before in its own segment of the disk, so that the two go together. If the disk does not take it, the next
// seal's write does it.
func (l *Log) endBoot() {
	if l.chain == nil || l.chain.boot == "" || l.chain.boot == l.cfg.Boot || len(l.segments) == 0 {
		return
	}
	w := &writing{}
	var err error
	if w.chain, err = l.chain.clone(); err == nil {
		err = l.closeBoot(w)
	}
	s := &l.segments[len(l.segments)-1]
	if err != nil || w.lines == 0 || l.put(*s, w.bytes.Bytes()) != nil {
		return
	}
	s.size += int64(w.bytes.Len())
	s.records += w.lines
	l.pending += w.lines
	l.chain = w.chain
}
