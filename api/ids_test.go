package api

import (
	"regexp"
	"testing"

	"pgregory.net/rapid"
)

func TestIDsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e [9]byte
		copy(e[:], rapid.SliceOfN(rapid.Byte(), 9, 9).Draw(t, "entropy"))
		for _, k := range Kinds {
			if k == KindAccount {
				continue
			}
			id := MakeID(k.Prefix(), e)
			got, err := ParseID(id)
			if err != nil || got != k {
				t.Fatalf("ParseID(%q) = %q, %v; want %q", id, got, err, k)
			}
			if ValidateName("name", id) == nil {
				t.Fatalf("%q passes as a name", id)
			}
		}
		id := MakeAccountID(rapid.Uint64().Draw(t, "account"))
		if !regexp.MustCompile(`^[1-9][0-9]{11}$`).MatchString(id) {
			t.Fatalf("account id %q", id)
		}
		if k, err := ParseID(id); err != nil || k != KindAccount {
			t.Fatalf("ParseID(%q) = %q, %v", id, k, err)
		}
	})
}

func TestParseIDRefuses(t *testing.T) {
	for _, s := range []string{
		"", "vpc-", "vpc-0a1b2c3d4e5f6071", "vpc-0a1b2c3d4e5f607189", "vpc-0A1B2C3D4E5F60718", "vpc-0a1b2c3d4e5f6071g",
		"VPC-0a1b2c3d4e5f60718", "12345678901", "1234567890123", "12345678901x", "vpce-svc-0a1b2c3d4e5f6071",
		"sgr-0a1b2c3d4e5f60718", "x-0a1b2c3d4e5f60718", "vpce-con-svc-0a1b2c3d4e5f60718",
	} {
		if k, err := ParseID(s); err == nil {
			t.Errorf("ParseID(%q) = %q", s, k)
		}
	}
}

func TestEveryKindHasANoun(t *testing.T) {
	if len(Kinds) != len(notFoundCodes) {
		t.Errorf("%d kinds, %d nouns", len(Kinds), len(notFoundCodes))
	}
	for _, k := range Kinds {
		e := NotFound(k, "id", "x")
		if e.GetStatus() != 404 || k.Noun() == string(k) || e.Remedy == "" {
			t.Errorf("%s: %v, status %d", k, e, e.GetStatus())
		}
	}
}
