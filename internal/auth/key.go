package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// The algorithms of each key family.
var (
	hmacAlgorithms = []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512}
	rsaAlgorithms  = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
	allAlgorithms  = slices.Concat(hmacAlgorithms, rsaAlgorithms,
		[]jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.EdDSA})
)

// minRSABits is the least length of an RSA key.
const minRSABits = 2048

// policy is what the tokens of a key may be.
type policy struct {
	lifetime float64 // the most seconds from iat to exp
	// audience is accepted besides the configured ones; it may be empty.
	audience string
}

var (
	ordinary = policy{lifetime: 86400}
	// Supabase issues its tokens itself, so its own audience and, with the slack that
	// its documentation asks for, its longest lifetime of a week must pass.
	supabase = policy{lifetime: 604800 + 1200, audience: "authenticated"}
)

// key verifies tokens.
type key struct {
	id string // empty for a wildcard, which is tried on any token
	// algorithms are those that the key's type, and its alg if it has one, allow.
	algorithms []jose.SignatureAlgorithm
	verifier   any // for go-jose
	policy     policy
}

func (k *key) allows(alg jose.SignatureAlgorithm) bool { return slices.Contains(k.algorithms, alg) }

// newKey prepares a JWK. A private key stands for its public half.
func newKey(jwk jose.JSONWebKey, p policy) (*key, error) {
	k := &key{id: jwk.KeyID, policy: p}
	switch material := jwk.Key.(type) {
	case []byte:
		if len(material) == 0 {
			return nil, errors.New("the secret is empty")
		}
		k.algorithms, k.verifier = hmacAlgorithms, hmacKey(slices.Clone(material))
	case *rsa.PrivateKey:
		return newKey(public(jwk, &material.PublicKey), p)
	case *ecdsa.PrivateKey:
		return newKey(public(jwk, &material.PublicKey), p)
	case ed25519.PrivateKey:
		return newKey(public(jwk, material.Public()), p)
	case *rsa.PublicKey:
		if bits := material.N.BitLen(); bits < minRSABits {
			return nil, fmt.Errorf("the RSA key has %d bits, fewer than %d", bits, minRSABits)
		}
		k.algorithms, k.verifier = rsaAlgorithms, material
	case *ecdsa.PublicKey:
		switch material.Curve {
		case elliptic.P256():
			k.algorithms = []jose.SignatureAlgorithm{jose.ES256}
		case elliptic.P384():
			k.algorithms = []jose.SignatureAlgorithm{jose.ES384}
		case elliptic.P521():
			k.algorithms = []jose.SignatureAlgorithm{jose.ES512}
		default:
			return nil, errors.New("the curve is none of P-256, P-384 and P-521")
		}
		k.verifier = material
	case ed25519.PublicKey:
		k.algorithms, k.verifier = []jose.SignatureAlgorithm{jose.EdDSA}, material
	default:
		return nil, errors.New("the key type is none of oct, RSA, EC and OKP with Ed25519")
	}
	if jwk.Use != "" && jwk.Use != "sig" {
		return nil, fmt.Errorf("the key's use is %q, not sig", jwk.Use)
	}
	if jwk.Algorithm != "" {
		alg := jose.SignatureAlgorithm(jwk.Algorithm)
		if !k.allows(alg) {
			return nil, fmt.Errorf("the key's alg %q does not go with its type", jwk.Algorithm)
		}
		k.algorithms = []jose.SignatureAlgorithm{alg}
	}
	return k, nil
}

func public(jwk jose.JSONWebKey, material any) jose.JSONWebKey {
	return jose.JSONWebKey{Key: material, KeyID: jwk.KeyID, Algorithm: jwk.Algorithm, Use: jwk.Use}
}

// hmacKey is a shared secret. go-jose refuses secrets shorter than the hash, which
// existing configurations have; the configuration's reader warns of them.
type hmacKey []byte

// VerifyPayload implements jose.OpaqueVerifier.
func (k hmacKey) VerifyPayload(payload, signature []byte, alg jose.SignatureAlgorithm) error {
	var h func() hash.Hash
	switch alg {
	case jose.HS256:
		h = sha256.New
	case jose.HS384:
		h = sha512.New384
	case jose.HS512:
		h = sha512.New
	default:
		return jose.ErrUnsupportedAlgorithm
	}
	mac := hmac.New(h, k)
	mac.Write(payload)
	if !hmac.Equal(mac.Sum(nil), signature) {
		return jose.ErrCryptoFailure
	}
	return nil
}

// maxRemoteKeys bounds the keys of one remote key set.
const maxRemoteKeys = 100

// unfit is a key of a remote key set that cannot verify anything here, though nothing
// says that it is for another purpose.
type unfit struct {
	id  string // empty if it has none
	why string
}

// parseKeySet reads a JWKS document. Keys that are not for verifying signatures are
// left out: issuers list keys for other purposes beside them. So are shared secrets,
// which have no business there. Keys of kinds that are not known are left out and
// listed, for who wonders why their tokens are refused.
func parseKeySet(doc []byte, p policy) ([]*key, []unfit, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(doc, &set); err != nil {
		return nil, nil, fmt.Errorf("not a JSON object with keys: %w", err)
	}
	if set.Keys == nil {
		return nil, nil, errors.New("the document has no list of keys")
	}
	if len(set.Keys) > maxRemoteKeys {
		return nil, nil, fmt.Errorf("%d keys, more than %d", len(set.Keys), maxRemoteKeys)
	}
	var out []*key
	var left []unfit
	for _, raw := range set.Keys {
		var about struct {
			ID         string   `json:"kid"`
			Type       string   `json:"kty"`
			Curve      string   `json:"crv"`
			Use        string   `json:"use"`
			Operations []string `json:"key_ops"`
		}
		err := json.Unmarshal(raw, &about)
		switch {
		case err != nil:
		case about.Type == "oct", about.Use != "" && about.Use != "sig",
			about.Operations != nil && !slices.Contains(about.Operations, "verify"):
			continue
		case about.Type == "OKP" && about.Curve != "Ed25519":
			err = fmt.Errorf("keys on the curve %.40q are not supported: use one on Ed25519", about.Curve)
		default:
			var jwk jose.JSONWebKey
			var k *key
			if err = json.Unmarshal(raw, &jwk); err == nil {
				k, err = newKey(jwk, p)
			}
			if err == nil {
				out = append(out, k)
			}
		}
		if err != nil {
			left = append(left, unfit{about.ID, shorten(err.Error())})
		}
	}
	return out, left, nil
}
