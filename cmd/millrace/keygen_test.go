package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// TestKeygenPair checks that what the private half signs, the printed public
// values verify, as the service will put them together from powersync.yaml.
func TestKeygenPair(t *testing.T) {
	var out bytes.Buffer
	if err := (&keygenCmd{Bits: 2048}).Run(&out); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			t.Fatalf("line %q is neither a comment nor a variable", line)
		}
		env[name] = value
	}

	text, err := base64.RawURLEncoding.DecodeString(env["POWERSYNC_PRIVATE_KEY"])
	if err != nil {
		t.Fatal(err)
	}
	var private jose.JSONWebKey
	if err := json.Unmarshal(text, &private); err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: private}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign([]byte("payload"))
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	if signed, err = jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.RS256}); err != nil {
		t.Fatal(err)
	}
	if got := signed.Signatures[0].Header.KeyID; got != env["PS_JWK_KID"] {
		t.Errorf("tokens name key %q, the configuration %q", got, env["PS_JWK_KID"])
	}

	public, err := json.Marshal(map[string]string{"kty": "RSA", "alg": "RS256",
		"kid": env["PS_JWK_KID"], "n": env["PS_JWK_N"], "e": env["PS_JWK_E"]})
	if err != nil {
		t.Fatal(err)
	}
	var key jose.JSONWebKey
	if err := json.Unmarshal(public, &key); err != nil {
		t.Fatal(err)
	}
	if _, err := signed.Verify(key); err != nil {
		t.Errorf("the printed public key does not verify what the private one signed: %v", err)
	}
}

func TestKeygenRefusesWeakKeys(t *testing.T) {
	for _, bits := range []int{0, 1024, 2047, 8193} {
		if err := (&keygenCmd{Bits: bits}).Run(&bytes.Buffer{}); err == nil {
			t.Errorf("a key of %d bits was made", bits)
		}
	}
}
