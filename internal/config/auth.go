package config

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// The codes of remote key sets.
const (
	codeJWKS       = "PSYNC_S3102"
	codeJWKSScheme = "PSYNC_S3103"
)

var authKeys = []string{
	"audience", "jwks", "jwks_uri", "block_local_jwks", "jwks_reject_ip_ranges", "supabase", "supabase_jwt_secret",
}

// maxKeys bounds the keys and the key sets of a configuration.
const maxKeys = 100

// supabaseHost matches the host of a Supabase database, which names the project.
var supabaseHost = regexp.MustCompile(`^db\.([a-z0-9]+)\.supabase\.co$`)

// clientAuth reads who may connect. host is the connection's.
func (r *reader) clientAuth(root mapping, host string) ClientAuth {
	n := root.at["client_auth"]
	if !n.present() {
		if root.ok {
			r.warnf(node{path: "client_auth"}, "is missing: no client will be able to connect").
				hint("write client_auth with audience and jwks or jwks_uri")
		}
		return ClientAuth{}
	}
	m := r.mapping(n, authKeys...)
	a := ClientAuth{
		BlockLocalJWKS:    r.truth(m.at["block_local_jwks"], false),
		RejectIPRanges:    r.ipRanges(m.at["jwks_reject_ip_ranges"]),
		Supabase:          r.truth(m.at["supabase"], false),
		SupabaseJWTSecret: r.secret(m.at["supabase_jwt_secret"]),
	}
	audience, ok := r.list(m.at["audience"])
	if !ok && m.at["audience"].present() {
		r.problems[len(r.problems)-1].hint("write audience: [NAME]")
	}
	for _, item := range audience {
		if s := r.text(item); s != "" {
			a.Audience = append(a.Audience, s)
		}
	}
	a.JWKSURIs = r.jwksURIs(m.at["jwks_uri"])
	a.Keys = r.keys(m.at["jwks"])
	if a.Supabase {
		if p := supabaseHost.FindStringSubmatch(host); p != nil {
			a.SupabaseJWKSURI = "https://" + p[1] + ".supabase.co/auth/v1/.well-known/jwks.json"
		} else if a.SupabaseJWTSecret == "" {
			r.warnf(m.at["supabase"], "the connection's host does not name a Supabase project, so its keys cannot be found").
				hint("write jwks_uri: https://PROJECT.supabase.co/auth/v1/.well-known/jwks.json")
		}
	}
	supabase := a.Supabase || a.SupabaseJWTSecret != ""
	if len(m.at) == 0 {
		return a // not a mapping, which has been reported, or empty
	}
	if !m.at["jwks"].present() && !m.at["jwks_uri"].present() && !supabase {
		r.warnf(n, "there is no key to check tokens with: no client will be able to connect").hint("write jwks or jwks_uri")
	} else if !m.at["audience"].present() && !supabase {
		r.warnf(n, "there is no audience: every token will be rejected").hint(`write audience: [powersync], and put the same into the tokens' claim "aud"`)
	}
	return a
}

// jwksURIs reads one URI or a list of them.
func (r *reader) jwksURIs(n node) []string {
	items := r.oneOrMore(n)
	if len(items) > maxKeys {
		r.errorf(n, "may hold at most %d entries", maxKeys)
		return nil
	}
	var out []string
	for _, item := range items {
		s := string(r.secret(item)) // it may hold a password
		if s == "" {
			continue
		}
		u, err := url.Parse(s)
		switch {
		case err != nil || u.Host == "" && (u.Scheme == "http" || u.Scheme == "https"):
			r.errorf(item, "is not a URI").code(codeJWKS).hint("write https://HOST/PATH")
		case u.Scheme != "http" && u.Scheme != "https":
			r.errorf(item, "must begin with https:// or http://").code(codeJWKSScheme)
		default:
			out = append(out, s)
		}
	}
	return out
}

// jwkKeys are the members of a key that are known. Those of private keys are last,
// from d on.
var jwkKeys = []string{
	"kty", "use", "key_ops", "alg", "kid", "x5u", "x5c", "x5t", "x5t#S256", "ext", "exp", "nbf", "iat",
	"n", "e", "crv", "x", "y", "k", "d", "p", "q", "dp", "dq", "qi", "oth",
}

var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth"}

// algorithms holds the signature algorithms of each kind of key.
var algorithms = map[string][]string{
	"RSA": {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
	"EC":  {"ES256", "ES384", "ES512"},
	"OKP": {"EdDSA"},
	"oct": {"HS256", "HS384", "HS512"},
}

// curves holds the size in bytes of a coordinate, and the algorithm of each curve.
var curves = map[string]struct {
	size int
	alg  string
}{"P-256": {32, "ES256"}, "P-384": {48, "ES384"}, "P-521": {66, "ES512"}}

// keys reads jwks.keys.
func (r *reader) keys(n node) []Key {
	list := r.mapping(n, "keys").at["keys"]
	items, _ := r.list(list)
	if len(items) > maxKeys {
		r.errorf(list, "may hold at most %d keys", maxKeys)
		return nil
	}
	var out []Key
	kids := map[string]bool{}
	for _, item := range items {
		m := r.mapping(item, jwkKeys...)
		if !m.ok {
			continue
		}
		members := r.key(m)
		if kid, ok := members["kid"].(string); ok {
			if kids[kid] {
				r.warnf(m.at["kid"], "another key has the same kid").hint("give each key its own")
			}
			kids[kid] = true
		}
		jwk, err := json.Marshal(members)
		if err != nil {
			r.errorf(item, "cannot be written as JSON")
			continue
		}
		out = append(out, Key{JWK: Secret(jwk), Path: item.path, File: r.doc.file, Line: item.Line, Column: item.Column})
	}
	return out
}

// key checks one key and returns its members, without private ones.
func (r *reader) key(m mapping) map[string]any {
	out := map[string]any{}
	kinds := []string{"RSA", "EC", "OKP", "oct"}
	kty := m.at["kty"]
	if !kty.present() {
		r.missingMember(m, "kty", "RSA, EC, OKP or oct")
		return out
	}
	kind := r.word(kty, "", kinds...)
	out["kty"] = kind
	for _, name := range []string{"kid", "use"} {
		if s := r.text(m.at[name]); s != "" {
			out[name] = s
		}
	}
	if out["use"] != nil && out["use"] != "sig" {
		r.errorf(m.at["use"], "must be sig: the key is for signatures")
	}
	if ops := m.at["key_ops"]; ops.present() {
		var list []string
		items, _ := r.list(ops)
		for _, item := range items {
			list = append(list, r.text(item))
		}
		out["key_ops"] = list
		if len(list) > 0 && !slices.Contains(list, "verify") {
			r.errorf(ops, "must hold verify")
		}
	}
	switch kind {
	case "RSA":
		modulus := r.member(m, out, "n")
		r.member(m, out, "e")
		if bits := len(modulus) * 8; modulus != nil && bits < 2048 {
			r.errorf(m.at["n"], "the key is shorter than 2048 bits").hint("make another with: millrace keygen")
		}
	case "EC":
		r.ecMembers(m, out)
	case "OKP":
		r.okpMembers(m, out)
	case "oct":
		r.member(m, out, "k")
	}
	r.algorithm(m, out, kind)
	if kind != "oct" {
		for _, name := range privateMembers {
			if v := m.at[name]; v.present() {
				r.warnf(v, "is part of the private key, which the service does not need").
					hint("remove %s from the file: whoever reads it can sign tokens", strings.Join(privateMembers, ", "))
				break
			}
		}
	}
	return out
}

func (r *reader) ecMembers(m mapping, out map[string]any) {
	crv := m.at["crv"]
	if !crv.present() {
		r.missingMember(m, "crv", "P-256, P-384 or P-521")
	}
	name := r.word(crv, "", "P-256", "P-384", "P-521")
	out["crv"] = name
	for _, member := range []string{"x", "y"} {
		b := r.member(m, out, member)
		if size := curves[name].size; b != nil && size != 0 && len(b) != size {
			r.errorf(m.at[member], "must be %d bytes long for %s, is %d", size, name, len(b))
		}
	}
}

func (r *reader) okpMembers(m mapping, out map[string]any) {
	crv := m.at["crv"]
	if !crv.present() {
		r.missingMember(m, "crv", "Ed25519")
	} else if r.text(crv) == "Ed448" {
		r.errorf(crv, "Ed448 is not supported").hint("use a key on Ed25519")
	}
	name := "Ed25519"
	if crv.present() && r.text(crv) != "Ed448" {
		name = r.word(crv, name, "Ed25519")
	}
	out["crv"] = name
	if b := r.member(m, out, "x"); b != nil && len(b) != 32 {
		r.errorf(m.at["x"], "must be 32 bytes long, is %d", len(b))
	}
}

// algorithm reads alg and checks that it goes with the key.
func (r *reader) algorithm(m mapping, out map[string]any, kind string) {
	n := m.at["alg"]
	if !n.present() || kind == "" {
		return
	}
	allowed := algorithms[kind]
	if c, ok := curves[asText(out["crv"])]; ok {
		allowed = []string{c.alg}
	}
	if alg := r.word(n, "", allowed...); alg != "" {
		out["alg"] = alg
		if k, err := base64.RawURLEncoding.DecodeString(asText(out["k"])); kind == "oct" && err == nil {
			if need := map[string]int{"HS256": 32, "HS384": 48, "HS512": 64}[alg]; len(k) < need {
				r.warnf(m.at["k"], "the secret has %d bytes; %s needs %d to be safe", len(k), alg, need).
					hint("use random bytes, as from: openssl rand %d", need)
			}
		}
	}
}

func asText(v any) string {
	s, _ := v.(string)
	return s
}

func (r *reader) missingMember(m mapping, name, form string) {
	r.errorf(node{m.Node, m.path + "." + name}, "is missing").hint("write %s: %s", name, form)
}

// member reads a required member that holds bytes as base64url, and returns them, or
// nil after a mistake.
func (r *reader) member(m mapping, out map[string]any, name string) []byte {
	n := m.at[name]
	if !n.present() {
		r.missingMember(m, name, "the bytes as base64url")
		return nil
	}
	before := len(r.problems)
	s := string(r.secret(n))
	if len(r.problems) > before {
		return nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || s == "" {
		p := r.errorf(n, "is not base64url")
		if strings.ContainsAny(s, "+/=") {
			p.hint("write - for +, _ for /, and no = at the end")
		}
		return nil
	}
	out[name] = s
	return b
}
