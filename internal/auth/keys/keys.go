// Package keys makes signing keys and signs tokens with them: what `millrace keygen`
// prints, and what tests use in place of an app's backend.
//
// It has no state. Callers are the command, the backend kit and tests; the service
// itself only verifies, in package auth.
//
// Invariants:
//   - Public never holds private material, except that a shared secret is all there is.
//   - Every key has a random id, so that keys can be rotated side by side.
package keys

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

const (
	// rsaBits is the length of RSA keys.
	rsaBits = 2048
	// secretBytes is the length of shared secrets, that of HS256's hash.
	secretBytes = 32
)

// Pair is a signing key: Private signs, Public verifies. Those of a shared secret
// are the same.
type Pair struct {
	Private, Public jose.JSONWebKey
}

// NewRSA makes a pair for RS256.
func NewRSA() (*Pair, error) {
	k, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return nil, fmt.Errorf("make an RSA key: %w", err)
	}
	private := jose.JSONWebKey{Key: k, KeyID: newID(), Algorithm: string(jose.RS256), Use: "sig"}
	return &Pair{Private: private, Public: private.Public()}, nil
}

// NewSecret makes a shared secret for HS256.
func NewSecret() *Pair {
	secret := make([]byte, secretBytes)
	_, _ = rand.Read(secret) // never fails
	k := jose.JSONWebKey{Key: secret, KeyID: newID(), Algorithm: string(jose.HS256)}
	return &Pair{Private: k, Public: k}
}

func newID() string {
	id := make([]byte, 9)
	_, _ = rand.Read(id) // never fails
	return "millrace-" + base64.RawURLEncoding.EncodeToString(id)
}

// YAML returns the public key as it stands in powersync.yaml, from client_auth on.
func (p *Pair) YAML() (string, error) {
	text, err := json.Marshal(p.Public)
	if err != nil {
		return "", fmt.Errorf("write a key: %w", err)
	}
	var members map[string]string
	if err := json.Unmarshal(text, &members); err != nil {
		return "", fmt.Errorf("write a key: %w", err)
	}
	var b strings.Builder
	b.WriteString("client_auth:\n  jwks:\n    keys:\n")
	indent := "      - "
	for _, name := range []string{"kty", "alg", "use", "kid", "crv", "n", "e", "x", "y", "k"} {
		if value, ok := members[name]; ok {
			// Single quotes keep YAML from reading a value as anything but text.
			fmt.Fprintf(&b, "%s%s: '%s'\n", indent, name, value)
			indent = "        "
		}
	}
	return b.String(), nil
}

// JWK returns the private key as a line of JSON.
func (p *Pair) JWK() (string, error) {
	text, err := json.Marshal(p.Private)
	if err != nil {
		return "", fmt.Errorf("write a key: %w", err)
	}
	return string(text), nil
}

// PEM returns the private key as PKCS #8. It fails for a shared secret, which has no
// such form.
func (p *Pair) PEM() (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(p.Private.Key)
	if err != nil {
		return "", fmt.Errorf("write a key as PEM: %w", err)
	}
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
		return "", fmt.Errorf("write a key as PEM: %w", err)
	}
	return b.String(), nil
}

// Sign returns a token with the claims, which are marshalled as JSON, signed with a
// private key by its alg. Without a KeyID the token has no kid.
func Sign(k jose.JSONWebKey, claims any) (string, error) {
	if k.Algorithm == "" {
		return "", errors.New("sign a token: the key has no alg")
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	options := new(jose.SignerOptions).WithType("JWT")
	if k.KeyID != "" {
		// go-jose takes the id from a JWK by itself, but not for shared secrets.
		options.WithHeader("kid", k.KeyID)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(k.Algorithm), Key: k.Key}, options)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return token, nil
}
