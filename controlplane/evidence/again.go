package evidence

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/internal/logkey"
)

// What a node sends again, and the newest seal does not show to be known, is looked up in the file of its hour. Who sends old seals again
// and again has the server unpack so many files a batch, and no more: the rest counts as known, and adds nothing.
const (
	maxLookups  = 64
	maxHourSums = 32
)

// hourSums are the seals of a file: hashes of their lines, by their numbers.
type hourSums map[uint64]string

// holds tells whether a file of segments, packed or not, has a seal.
func (b *book) holds(name string, number uint64, sum string) (bool, error) {
	have, known := b.hours[name]
	if !known {
		if b.lookups++; b.lookups > maxLookups {
			if b.lookups == maxLookups+1 {
				b.s.cfg.Logger.Warn("a node sends old seals of many hours again: those that were not looked up are left out", logkey.Node, b.node,
					logkey.Limit, maxLookups)
			}
			return true, nil
		}
		var err error
		if have, err = sumsOf(filepath.Join(b.segmentsDir(), name)); err != nil {
			return false, err
		}
		for other := range b.hours {
			if len(b.hours) < maxHourSums {
				break
			}
			delete(b.hours, other)
		}
		if b.hours == nil {
			b.hours = map[string]hourSums{}
		}
		b.hours[name] = have
	}
	return have[number] == sum, nil
}

func sumsOf(path string) (hourSums, error) {
	sums := hourSums{}
	r, err := openHour(path)
	if errors.Is(err, os.ErrNotExist) {
		return sums, nil
	}
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	defer r.Close()
	err = eachLine(r, func(line []byte) error {
		if s, is, err := seal.Parse(line); is && err == nil {
			sums[s.Number] = seal.HashLine(line)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return sums, nil
}
