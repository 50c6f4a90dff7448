package zone

import (
	"errors"
	"fmt"
	"strings"
)

// Limits of a name, RFC 1035 section 2.3.4, as text without the trailing dot.
const (
	maxName  = 253
	maxLabel = 63
)

// parseName checks a name as people write it and returns its apex in lower case; wild tells whether it began with "*.".
func parseName(name string) (apex string, wild bool, err error) {
	apex, wild, err = parseAny(name)
	if err == nil && isReserved(apex) {
		return "", false, errors.New("is reserved: choose a name outside of localhost, invalid, onion and arpa")
	}
	return apex, wild, err
}

// parseRuleDomain is parseName for the domain of a rule, which may be one of reverse names: names that never leave a node are looked
// for before rules, or more specific.
func parseRuleDomain(name string) (apex string, wild bool, err error) {
	apex, wild, err = parseAny(name)
	if err == nil && (within(apex, reverseTop) || within(apex, reverse6Top) && !within(apex, meshReverse)) {
		return apex, wild, nil
	}
	return parseName(name)
}

func within(name, domain string) bool { return name == domain || strings.HasSuffix(name, "."+domain) }

// parseAny is parseName also of reserved names.
func parseAny(name string) (apex string, wild bool, err error) {
	apex = lower(strings.TrimSuffix(name, "."))
	if len(apex) > maxName {
		return "", false, fmt.Errorf("longer than %d characters", maxName)
	}
	if apex == "" {
		return "", false, errors.New("is empty")
	}
	apex, wild = strings.CutPrefix(apex, "*.")
	for label := range strings.SplitSeq(apex, ".") {
		if err := checkLabel(label); err != nil {
			return "", false, err
		}
	}
	return apex, wild, nil
}

func checkLabel(label string) error {
	if label == "" || len(label) > maxLabel {
		return fmt.Errorf("label %q: must have 1 to %d characters", label, maxLabel)
	}
	for _, c := range []byte(label) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return fmt.Errorf("label %q: only letters, digits, '-' and '_' are allowed", label)
		}
	}
	if label[0] == '-' || label[len(label)-1] == '-' {
		return fmt.Errorf("label %q: must not begin or end with '-'", label)
	}
	return nil
}

func isReserved(apex string) bool {
	top := apex[strings.LastIndexByte(apex, '.')+1:]
	return top == "localhost" || top == "invalid" || top == "onion" || top == "arpa"
}

// nextLabel returns where the label after the one at off begins, len(name) after the last. It knows the escapes of the
// presentation format ("\." and "\DDD"), so a dot inside a label does not end it.
func nextLabel(name string, off int) int {
	for off < len(name) {
		switch name[off] {
		case '.':
			return off + 1
		case '\\':
			if off+1 < len(name) && name[off+1] >= '0' && name[off+1] <= '9' {
				off += 4
			} else {
				off += 2
			}
		default:
			off++
		}
	}
	return len(name)
}

// canonical is a question's name in lower case without the trailing dot. Only ASCII letters have case, RFC 4343.
func canonical(name string) string {
	name = strings.TrimSuffix(name, ".")
	for i := range len(name) {
		if c := name[i]; c >= 'A' && c <= 'Z' {
			return lower(name)
		}
	}
	return name
}

func lower(name string) string {
	b := []byte(name)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
