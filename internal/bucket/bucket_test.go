package bucket

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// The reference's worked example.
func TestChecksumVectors(t *testing.T) {
	const data = `{"id":"22222222-2222-2222-2222-222222222222","owner":"u1","name":"L2","archived":1,"tags":"[\"y\"]","prio":2}`
	put := PutChecksum(ContentHash("lists", "22222222-2222-2222-2222-222222222222", []byte(data)))
	if put != 3129678135 {
		t.Fatalf("PUT checksum %d, want 3129678135", put)
	}
	if got := put.Signed(); got != -1165289161 {
		t.Errorf("signed %d, want -1165289161", got)
	}
	h := sha256.Sum256([]byte("delete.372d2c41-1d68-472d-9820-aafa25a4b956/713582fc-2bc7-53da-b8b4-0b48e24cbfc8"))
	remove := Checksum(binary.LittleEndian.Uint32(h[:4]))
	if got := (put + remove).Signed(); got != 354417572 {
		t.Errorf("sum %d, want 354417572", got)
	}
}

func TestRemoveChecksumHashesTheSentSubkey(t *testing.T) {
	s := SubkeyFor([32]byte{1}, 7, "row")
	h := sha256.Sum256([]byte("delete." + s.String()))
	if want := Checksum(binary.LittleEndian.Uint32(h[:4])); RemoveChecksum(s) != want {
		t.Errorf("got %d, want %d", RemoveChecksum(s), want)
	}
}

func TestSubkeyDependsOnEverything(t *testing.T) {
	base := SubkeyFor([32]byte{1}, 7, "row")
	for name, other := range map[string]Subkey{
		"secret": SubkeyFor([32]byte{2}, 7, "row"),
		"table":  SubkeyFor([32]byte{1}, 8, "row"),
		"row":    SubkeyFor([32]byte{1}, 7, "rows"),
	} {
		if other == base {
			t.Errorf("the %s does not enter the subkey", name)
		}
	}
	if len(base.String()) != 22 {
		t.Errorf("subkey %q, want 22 characters", base)
	}
}

func TestParseOpID(t *testing.T) {
	for _, bad := range []string{"", "-1", "1.0", "9223372036854775808", "x"} {
		if _, err := ParseOpID(bad); err == nil {
			t.Errorf("ParseOpID(%q) gave no error", bad)
		}
	}
	if id, err := ParseOpID("9223372036854775807"); err != nil || id != MaxOpID {
		t.Errorf("got %d, %v", id, err)
	}
}
