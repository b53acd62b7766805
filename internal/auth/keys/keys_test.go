package keys_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"go.yaml.in/yaml/v4"

	"github.com/millrace-sync/millrace/internal/auth/keys"
)

// configured reads the key that a configuration file would hold.
func configured(t *testing.T, p *keys.Pair) jose.JSONWebKey {
	t.Helper()
	text, err := p.YAML()
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		ClientAuth struct {
			JWKS struct {
				Keys []map[string]string `yaml:"keys"`
			} `yaml:"jwks"`
		} `yaml:"client_auth"`
	}
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(file.ClientAuth.JWKS.Keys) != 1 {
		t.Fatalf("no key in\n%s", text)
	}
	raw, err := json.Marshal(file.ClientAuth.JWKS.Keys[0])
	if err != nil {
		t.Fatal(err)
	}
	var k jose.JSONWebKey
	if err := json.Unmarshal(raw, &k); err != nil {
		t.Fatal(err)
	}
	return k
}

func verify(t *testing.T, k jose.JSONWebKey, token string) {
	t.Helper()
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(k.Algorithm)})
	if err != nil {
		t.Fatal(err)
	}
	if id := jws.Signatures[0].Header.KeyID; id != k.KeyID || id == "" {
		t.Errorf("kid %q in the token, %q in the configuration", id, k.KeyID)
	}
	payload, err := jws.Verify(k.Key)
	if err != nil || string(payload) != `{"sub":"u1"}` {
		t.Errorf("payload %s, %v", payload, err)
	}
}

func TestRSA(t *testing.T) {
	p, err := keys.NewRSA()
	if err != nil {
		t.Fatal(err)
	}
	token, err := keys.Sign(p.Private, map[string]string{"sub": "u1"})
	if err != nil {
		t.Fatal(err)
	}
	k := configured(t, p)
	verify(t, k, token)
	if k.Algorithm != "RS256" || k.Use != "sig" || !k.IsPublic() {
		t.Errorf("configured %+v", k)
	}

	// The private half in both its forms.
	text, err := p.JWK()
	if err != nil {
		t.Fatal(err)
	}
	var private jose.JSONWebKey
	if err := json.Unmarshal([]byte(text), &private); err != nil {
		t.Fatal(err)
	}
	if token, err = keys.Sign(private, map[string]string{"sub": "u1"}); err != nil {
		t.Fatal(err)
	}
	verify(t, k, token)
	encoded, err := p.PEM()
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode([]byte(encoded))
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) != 0 {
		t.Fatalf("not one PEM block:\n%s", encoded)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !parsed.(*rsa.PrivateKey).Equal(p.Private.Key) {
		t.Error("the PEM form is of another key")
	}
	public, err := p.YAML()
	if err != nil {
		t.Fatal(err)
	}
	for _, member := range []string{"d", "p", "q", "dp", "dq", "qi"} {
		if strings.Contains(public, " "+member+": ") {
			t.Errorf("the public form has %s:\n%s", member, public)
		}
	}
}

func TestSecret(t *testing.T) {
	p := keys.NewSecret()
	token, err := keys.Sign(p.Private, map[string]string{"sub": "u1"})
	if err != nil {
		t.Fatal(err)
	}
	verify(t, configured(t, p), token)
	if _, err := p.PEM(); err == nil {
		t.Error("a shared secret has no PEM form")
	}
	if keys.NewSecret().Public.KeyID == p.Public.KeyID {
		t.Error("two keys have one id")
	}
}

func TestSignFailures(t *testing.T) {
	k := keys.NewSecret().Private
	if _, err := keys.Sign(k, func() {}); err == nil {
		t.Error("claims that are not JSON")
	}
	k.Algorithm = "RS256"
	if _, err := keys.Sign(k, nil); err == nil {
		t.Error("an algorithm of another family")
	}
	k.Algorithm = ""
	if _, err := keys.Sign(k, nil); err == nil {
		t.Error("no algorithm")
	}
}
