package main

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"

	"github.com/go-jose/go-jose/v4"
)

// keygenCmd makes a key pair for users' tokens.
type keygenCmd struct {
	Bits int `default:"2048" help:"Length of the RSA key (2048 to 8192)."`
}

// Run prints the pair as a file of environment variables: the public half as the
// values that powersync.yaml takes with !env, the private half as the backend
// takes it, base64 of a JWK.
func (c *keygenCmd) Run(out io.Writer) error {
	if c.Bits < 2048 || c.Bits > 8192 {
		return fmt.Errorf("keygen: --bits %d: must be between 2048 and 8192", c.Bits)
	}
	private, err := rsa.GenerateKey(rand.Reader, c.Bits)
	if err != nil {
		return fmt.Errorf("keygen: %w", err)
	}
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return fmt.Errorf("keygen: %w", err)
	}
	key := jose.JSONWebKey{
		Key:       private,
		KeyID:     "key-" + base64.RawURLEncoding.EncodeToString(id),
		Algorithm: string(jose.RS256),
		Use:       "sig",
	}
	secret, err := json.Marshal(key)
	if err != nil {
		return fmt.Errorf("keygen: %w", err)
	}
	public, err := publicParts(key)
	if err != nil {
		return fmt.Errorf("keygen: %w", err)
	}
	if _, err := fmt.Fprintf(out, keygenText, key.KeyID, public.N, public.E, base64.RawURLEncoding.EncodeToString(secret)); err != nil {
		return fmt.Errorf("keygen: %w", err)
	}
	return nil
}

const keygenText = `# For the service: the public key. powersync.yaml takes it so:
#   client_auth:
#     jwks:
#       keys:
#         - kty: RSA
#           alg: RS256
#           kid: !env PS_JWK_KID
#           n: !env PS_JWK_N
#           e: !env PS_JWK_E
PS_JWK_KID=%s
PS_JWK_N=%s
PS_JWK_E=%s
# For the backend alone: the private key, with which it signs users' tokens. Keep it secret.
POWERSYNC_PRIVATE_KEY=%s
`

// rsaPublic holds the public members of an RSA JWK, base64url.
type rsaPublic struct {
	N string `json:"n"`
	E string `json:"e"`
}

func publicParts(key jose.JSONWebKey) (rsaPublic, error) {
	var p rsaPublic
	text, err := json.Marshal(key.Public())
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	return p, err
}
