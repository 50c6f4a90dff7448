package api

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// idHexLen is how many hexadecimal digits follow an id's prefix, as in AWS's long ids (68 bits).
const idHexLen = 17

// AccountIDLen is the number of decimal digits of an account id.
const AccountIDLen = 12

// Prefixes of ids without a Kind of their own.
const (
	PrefixRule     = "sgr-"
	PrefixListener = "listener-"
)

// prefixOf gives each kind its prefix. Accounts have none: they are twelve digits.
var prefixOf = map[Kind]string{
	KindVPC:           "vpc-",
	KindSubnet:        "subnet-",
	KindENI:           "eni-",
	KindSecurityGroup: "sg-",
	KindTargetGroup:   "tg-",
	KindLoadBalancer:  "lb-",
	KindService:       "vpce-svc-",
	KindEndpoint:      "vpce-",
	KindConnection:    "vpce-con-",
	KindNode:          "node-",
	KindJoinToken:     "token-",
	KindAPIKey:        "key-",
	KindDomain:        "domain-",
	KindHostedZone:    "hz-",
	KindResolverRule:  "rslvr-rr-",

	KindFirewallDomainList: "rslvr-fdl-",
	KindFirewallRuleGroup:  "rslvr-frg-",
	KindFlowLog:            "fl-",
	KindQueryLog:           "rqlc-",
}

// Kinds lists every kind in the order in which resources depend on each other.
var Kinds = []Kind{
	KindAccount, KindAPIKey, KindJoinToken, KindNode, KindVPC, KindSubnet, KindSecurityGroup, KindENI, KindTargetGroup,
	KindLoadBalancer, KindService, KindEndpoint, KindConnection, KindDomain, KindHostedZone,
	KindResolverRule, KindFirewallDomainList, KindFirewallRuleGroup,
	KindFlowLog, KindQueryLog,
}

// Prefix is what the kind's ids begin with; "" for accounts.
func (k Kind) Prefix() string { return prefixOf[k] }

// MakeID builds an id from a prefix and 68 bits of the entropy given: the low half of the last byte is not used.
func MakeID(prefix string, entropy [9]byte) string {
	return prefix + hex.EncodeToString(entropy[:])[:idHexLen]
}

// MakeAccountID builds an account id: twelve digits, the first of them not 0.
func MakeAccountID(entropy uint64) string {
	const lowest, count = 100_000_000_000, 900_000_000_000
	return fmt.Sprintf("%012d", lowest+entropy%count)
}

// ParseID tells the kind of an id, or refuses what is none. Rules' and listeners' ids have no kind: see IsID.
func ParseID(id string) (Kind, error) {
	if IsAccountID(id) {
		return KindAccount, nil
	}
	for kind, prefix := range prefixOf {
		if IsID(prefix, id) {
			return kind, nil
		}
	}
	return "", Errorf(CodeInvalidParameter, "id", fmt.Sprintf("give a prefix such as vpc- and %d hexadecimal digits", idHexLen),
		"%q is not an id", Shortened(id))
}

// IsID reports whether id is prefix and 17 lower-case hexadecimal digits.
func IsID(prefix, id string) bool {
	rest, ok := strings.CutPrefix(id, prefix)
	if !ok || len(rest) != idHexLen {
		return false
	}
	for _, c := range []byte(rest) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// IsAccountID reports whether id is twelve decimal digits.
func IsAccountID(id string) bool {
	if len(id) != AccountIDLen {
		return false
	}
	for _, c := range []byte(id) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// looksLikeID reports whether a name could be taken for an id of some kind.
func looksLikeID(name string) bool {
	_, err := ParseID(name)
	return err == nil || IsID(PrefixRule, name) || IsID(PrefixListener, name)
}
