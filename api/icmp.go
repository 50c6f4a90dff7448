package api

import (
	"encoding/json"
	"strconv"
)

// ICMPNumber is a type or a code of ICMP in a rule. The zero value is any: rules that say nothing match every one. As JSON
// it is the number, 0 to 255, or -1 for any (AWS's word, which has it in FromPort and ToPort).
type ICMPNumber uint16

// ICMPOf is one number, 0 to 255; any other is any.
func ICMPOf(n int) ICMPNumber {
	if n < 0 || n > 255 {
		return 0
	}
	return ICMPNumber(n + 1)
}

// Number is -1 for any.
func (n ICMPNumber) Number() int { return int(n) - 1 }

// Matches says whether a packet's number is meant.
func (n ICMPNumber) Matches(number uint8) bool { return n == 0 || n == ICMPOf(int(number)) }

// String is "any" or the number.
func (n ICMPNumber) String() string {
	if n == 0 {
		return "any"
	}
	return strconv.Itoa(n.Number())
}

// MarshalJSON writes the number.
func (n ICMPNumber) MarshalJSON() ([]byte, error) { return json.Marshal(n.Number()) }

// UnmarshalJSON reads -1 to 255.
func (n *ICMPNumber) UnmarshalJSON(b []byte) error {
	var number int
	if err := json.Unmarshal(b, &number); err != nil {
		return err
	}
	if number < -1 || number > 255 {
		return invalid("icmpType", "give 0 to 255, or -1 for any", "%d is no type or code of ICMP", number)
	}
	*n = ICMPOf(number)
	return nil
}

// Numbers of the ICMP messages that open a flow; their code is 0.
const (
	ICMPEchoRequest   = 8
	ICMPv6EchoRequest = 128
)
