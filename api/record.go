package api

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// RecordTypes are the types of records that a hosted zone holds, with their numbers in DNS.
var RecordTypes = map[string]uint16{
	"A": 1, "CNAME": 5, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33, "SVCB": 64, "HTTPS": 65, "CAA": 257,
}

// recordForms say how a value of each type is written.
var recordForms = map[string]string{
	"A": "10.0.1.5", "AAAA": "2001:db8::5", "CNAME": "other.example.com", "MX": "10 mail.example.com",
	"TXT": `any text, or "strings" "in quotes"`, "SRV": "10 5 5060 sip.example.com", "CAA": `0 issue "ca.example.com"`,
	"SVCB": "1 svc.example.com port=8443", "HTTPS": "1 . alpn=h2,h3",
}

// PackRecord turns a record's value, as a zone file has it, into what DNS carries (RDATA, RFC 1035, 2782, 3596, 8659, 9460; names
// uncompressed). Names in it are absolute, with or without trailing dot.
func PackRecord(recordType, value string) ([]byte, error) {
	switch recordType {
	case "A", "AAAA":
		return packAddress(recordType, value)
	case "TXT":
		return packText(value)
	}
	fields, err := recordFields(value)
	if err != nil {
		return nil, err
	}
	switch recordType {
	case "CNAME":
		return packNumbers(fields, 0, 0)
	case "MX":
		return packNumbers(fields, 1, 0)
	case "SRV":
		return packNumbers(fields, 3, 0)
	case "CAA":
		return packCAA(fields)
	case "SVCB", "HTTPS":
		return packService(fields)
	}
	return nil, fmt.Errorf("the type %q is not known here", Shortened(recordType))
}

func packAddress(recordType, value string) ([]byte, error) {
	a, err := netip.ParseAddr(value)
	if err != nil || a.Zone() != "" || a.Is4In6() || a.Is4() != (recordType == "A") {
		return nil, errors.New("it is not an address of that family")
	}
	return a.AsSlice(), nil
}

// maxStringLen is the longest character string, RFC 1035.
const maxStringLen = 255

// packText packs strings in quotes as they are, and other text in pieces of maxStringLen.
func packText(value string) ([]byte, error) {
	var out []byte
	if !strings.HasPrefix(value, `"`) {
		for piece := range slices.Chunk([]byte(value), maxStringLen) {
			out = append(append(out, byte(len(piece))), piece...)
		}
		if out == nil {
			out = []byte{0}
		}
		return out, nil
	}
	fields, err := recordFields(value)
	if err != nil {
		return nil, err
	}
	for _, f := range fields {
		if len(f) > maxStringLen {
			return nil, fmt.Errorf("a string in quotes has %d bytes, at most %d are allowed", len(f), maxStringLen)
		}
		out = append(append(out, byte(len(f))), f...)
	}
	return out, nil
}

// recordFields splits at blanks outside of quotes, and takes quotes and escapes (\" and \DDD) away.
func recordFields(value string) ([]string, error) {
	var out []string
	var field []byte
	open, quoted := false, false // a field, and quotes in it
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '"':
			open, quoted = true, !quoted
		case c == '\\':
			b, n, err := unescape(value[i+1:])
			if err != nil {
				return nil, err
			}
			open, field, i = true, append(field, b), i+n
		case (c == ' ' || c == '\t') && !quoted:
			if open {
				out = append(out, string(field))
			}
			open, field = false, field[:0]
		default:
			open, field = true, append(field, c)
		}
	}
	if quoted {
		return nil, errors.New("a quote is not closed")
	}
	if open {
		out = append(out, string(field))
	}
	return out, nil
}

// unescape reads what follows a backslash, and how long it is.
func unescape(rest string) (b byte, n int, err error) {
	if len(rest) >= 3 && rest[0] >= '0' && rest[0] <= '9' {
		if v, err := strconv.ParseUint(rest[:3], 10, 8); err == nil {
			return byte(v), 3, nil
		}
	} else if rest != "" && (rest[0] < '0' || rest[0] > '9') {
		return rest[0], 1, nil
	}
	return 0, 0, errors.New(`a backslash is followed by neither a character nor three digits up to 255`)
}

// packNumbers packs so many numbers of 16 bits and a name. What follows the name is left to the caller: more fields.
func packNumbers(fields []string, numbers, more int) ([]byte, error) {
	if len(fields) < numbers+1 || more == 0 && len(fields) > numbers+1 {
		return nil, errors.New("it has not the right number of fields")
	}
	var out []byte
	for _, f := range fields[:numbers] {
		n, err := strconv.ParseUint(f, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q is not a number of 0 to 65535", Shortened(f))
		}
		out = binary.BigEndian.AppendUint16(out, uint16(n))
	}
	return packName(out, fields[numbers], numbers > 0)
}

// packName appends a name; the root only where that has a meaning.
func packName(out []byte, name string, root bool) ([]byte, error) {
	if root && name == "." {
		return append(out, 0), nil
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if !ValidRecordName(name) || strings.HasPrefix(name, "*") {
		return nil, fmt.Errorf("%q is not a DNS name", Shortened(name))
	}
	for label := range strings.SplitSeq(name, ".") {
		out = append(append(out, byte(len(label))), label...)
	}
	return append(out, 0), nil
}

// ValidRecordName reports whether a name may own a record: lower-case labels of 1 to 63 letters, digits, hyphens and underscores,
// at most 253 bytes together; the first label may be "*".
func ValidRecordName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for i, label := range strings.Split(name, ".") {
		if i == 0 && label == "*" && len(name) > 2 {
			continue
		}
		if label == "" || len(label) > MaxNameLen || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

func packCAA(fields []string) ([]byte, error) {
	if len(fields) != 3 {
		return nil, errors.New("it has not the right number of fields")
	}
	flags, err := strconv.ParseUint(fields[0], 10, 8)
	if err != nil {
		return nil, fmt.Errorf("the flags %q are not a number of 0 to 255", Shortened(fields[0]))
	}
	tag := fields[1]
	if tag == "" || len(tag) > 15 || strings.Trim(tag, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
		return nil, fmt.Errorf("the tag %q is not 1 to 15 letters and digits", Shortened(tag))
	}
	return append(append([]byte{byte(flags), byte(len(tag))}, tag...), fields[2]...), nil
}

// serviceKeys are the parameters of SVCB and HTTPS records, RFC 9460 and 9461.
var serviceKeys = map[string]uint16{
	"mandatory": 0, "alpn": 1, "no-default-alpn": 2, "port": 3, "ipv4hint": 4, "ech": 5, "ipv6hint": 6, "dohpath": 7,
}

func packService(fields []string) ([]byte, error) {
	out, err := packNumbers(fields, 1, len(fields))
	if err != nil {
		return nil, err
	}
	params := map[uint16][]byte{}
	for _, f := range fields[2:] {
		name, value, _ := strings.Cut(f, "=")
		key, ok := serviceKey(name)
		if !ok {
			return nil, fmt.Errorf("the parameter %q is not known", Shortened(name))
		}
		if _, twice := params[key]; twice {
			return nil, fmt.Errorf("the parameter %s is given twice", name)
		}
		if params[key], err = packParameter(key, value); err != nil {
			return nil, fmt.Errorf("the parameter %s: %w", name, err)
		}
	}
	if fields[0] == "0" && len(params) > 0 {
		return nil, errors.New("with priority 0 it is an alias, which has no parameters")
	}
	if err := checkParameters(params); err != nil {
		return nil, err
	}
	keys := make([]uint16, 0, len(params))
	for key := range params {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		out = binary.BigEndian.AppendUint16(out, key)
		out = binary.BigEndian.AppendUint16(out, uint16(len(params[key])))
		out = append(out, params[key]...)
	}
	return out, nil
}

func serviceKey(name string) (uint16, bool) {
	if key, ok := serviceKeys[name]; ok {
		return key, true
	}
	rest, ok := strings.CutPrefix(name, "key")
	n, err := strconv.ParseUint(rest, 10, 16)
	return uint16(n), ok && err == nil && n != 65535 && strconv.FormatUint(n, 10) == rest
}

// packParameter packs the value of a parameter; what RFC 9460 does not name is taken as it is.
func packParameter(key uint16, value string) (out []byte, err error) {
	switch key {
	case serviceKeys["no-default-alpn"]:
		if value != "" {
			return nil, errors.New("it has no value")
		}
		return nil, nil
	case serviceKeys["port"]:
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q is not a port", Shortened(value))
		}
		return binary.BigEndian.AppendUint16(nil, uint16(n)), nil
	case serviceKeys["ech"]:
		if out, err = base64.StdEncoding.DecodeString(value); err != nil || len(out) == 0 {
			return nil, errors.New("it is not base64")
		}
		return out, nil
	case serviceKeys["mandatory"], serviceKeys["alpn"], serviceKeys["ipv4hint"], serviceKeys["ipv6hint"]:
		for item := range strings.SplitSeq(value, ",") {
			if out, err = packItem(out, key, item); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return []byte(value), nil
}

// packItem appends one item of a list.
func packItem(out []byte, key uint16, item string) ([]byte, error) {
	switch key {
	case serviceKeys["alpn"]:
		if item == "" || len(item) > maxStringLen {
			return nil, errors.New("a protocol is empty or too long")
		}
		return append(append(out, byte(len(item))), item...), nil
	case serviceKeys["mandatory"]:
		other, ok := serviceKey(item)
		if !ok || other == key {
			return nil, fmt.Errorf("%q is no parameter that it may name", Shortened(item))
		}
		return binary.BigEndian.AppendUint16(out, other), nil
	}
	family := "A"
	if key == serviceKeys["ipv6hint"] {
		family = "AAAA"
	}
	address, err := packAddress(family, item)
	return append(out, address...), err
}

// checkParameters demands what the parameters demand of each other, and sorts those that are mandatory.
func checkParameters(params map[uint16][]byte) error {
	if _, none := params[serviceKeys["no-default-alpn"]]; none && params[serviceKeys["alpn"]] == nil {
		return errors.New("no-default-alpn needs alpn")
	}
	list := params[serviceKeys["mandatory"]]
	var keys []uint16
	for i := 0; i < len(list); i += 2 {
		keys = append(keys, binary.BigEndian.Uint16(list[i:]))
	}
	slices.Sort(keys)
	for i, key := range keys {
		if _, there := params[key]; !there || i > 0 && keys[i-1] == key {
			return errors.New("mandatory names a parameter that is not there, or names it twice")
		}
		binary.BigEndian.PutUint16(list[2*i:], key)
	}
	return nil
}
