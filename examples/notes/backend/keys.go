package main

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// errToken is what every refused token wraps.
var errToken = errors.New("token refused")

// signer issues and checks the users' tokens. The service checks the same tokens
// with the public half of the key.
type signer struct {
	key      jose.JSONWebKey // RSA, private, with a key id
	audience string
	ttl      time.Duration
	now      func() time.Time
}

// parseKey reads a private RSA key in the form that `millrace keygen` prints: a
// JWK, as JSON or as the base64 of it.
func parseKey(text string) (jose.JSONWebKey, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return jose.JSONWebKey{}, errors.New("no private key: run `millrace keygen` and set POWERSYNC_PRIVATE_KEY to what it prints")
	}
	if !strings.HasPrefix(text, "{") {
		raw, err := base64.RawURLEncoding.DecodeString(strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(text))
		if err != nil {
			return jose.JSONWebKey{}, errors.New("private key is neither a JWK nor the base64 of one: take it from `millrace keygen`")
		}
		text = string(raw)
	}
	var key jose.JSONWebKey
	// The decoder's own error may quote the key, so it is not passed on.
	if err := json.Unmarshal([]byte(text), &key); err != nil {
		return jose.JSONWebKey{}, errors.New("private key is not a valid JWK: take it from `millrace keygen`")
	}
	if _, ok := key.Key.(*rsa.PrivateKey); !ok || !key.Valid() {
		return jose.JSONWebKey{}, errors.New("private key is not a private RSA key: take it from `millrace keygen`")
	}
	if key.KeyID == "" {
		return jose.JSONWebKey{}, errors.New("private key has no \"kid\", by which the service finds the public one: take it from `millrace keygen`")
	}
	key.Algorithm, key.Use = string(jose.RS256), "sig"
	return key, nil
}

// jwks returns the public keys that the tokens verify with.
func (s *signer) jwks() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{s.key.Public()}}
}

// issue returns a token for user, and when it expires.
func (s *signer) issue(user string) (token string, expires time.Time, err error) {
	signing := jose.SigningKey{Algorithm: jose.RS256, Key: s.key}
	sig, err := jose.NewSigner(signing, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", time.Time{}, fmt.Errorf("issue token: %w", err)
	}
	now := s.now().Truncate(time.Second)
	expires = now.Add(s.ttl)
	token, err = jwt.Signed(sig).Claims(jwt.Claims{
		Subject:  user,
		Audience: jwt.Audience{s.audience},
		IssuedAt: jwt.NewNumericDate(now),
		Expiry:   jwt.NewNumericDate(expires),
	}).Serialize()
	if err != nil {
		return "", time.Time{}, fmt.Errorf("issue token: %w", err)
	}
	return token, expires, nil
}

// user returns the subject of the request's token. Its errors wrap errToken.
func (s *signer) user(r *http.Request) (string, error) {
	scheme, text, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || scheme != "Bearer" && scheme != "Token" {
		return "", fmt.Errorf("%w: send the header `Authorization: Bearer <token>`", errToken)
	}
	token, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return "", fmt.Errorf("%w: not a JWT signed with RS256", errToken)
	}
	var claims jwt.Claims
	if err := token.Claims(s.key.Public().Key, &claims); err != nil {
		return "", fmt.Errorf("%w: the signature does not verify with this backend's key", errToken)
	}
	expected := jwt.Expected{AnyAudience: jwt.Audience{s.audience}, Time: s.now()}
	if err := claims.ValidateWithLeeway(expected, 0); err != nil {
		return "", fmt.Errorf("%w: %s", errToken, strings.TrimPrefix(err.Error(), "go-jose/go-jose/jwt: "))
	}
	if claims.Subject == "" || claims.Expiry == nil {
		return "", fmt.Errorf("%w: it lacks \"sub\" or \"exp\"", errToken)
	}
	return claims.Subject, nil
}
