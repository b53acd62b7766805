package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/go-jose/go-jose/v4"

	"github.com/millrace-sync/millrace/protocol"
)

// maxToken bounds a token's length in bytes.
const maxToken = 64 << 10

// Config says which tokens to accept. The zero Config accepts none.
type Config struct {
	// Keys verify tokens. A key without id is tried on every token of its family;
	// private keys stand for their public halves.
	Keys []jose.JSONWebKey
	// KeySetURIs are http or https URIs of remote key sets.
	KeySetURIs []string
	// BlockLocal refuses to fetch key sets from addresses that are not public, and
	// RejectRanges from those within it.
	BlockLocal   bool
	RejectRanges []netip.Prefix
	// SupabaseKeySetURI and SupabaseSecret are the keys of Supabase Auth: its key set,
	// and the text of the shared secret of older projects. Either may be empty. Their
	// tokens may be valid for a week, and for the audience "authenticated".
	SupabaseKeySetURI string
	SupabaseSecret    string
	// Audience lists the accepted audiences; if empty, only Supabase's is.
	Audience []string

	// Now tells the time; nil means time.Now.
	Now func() time.Time
	// Log hears of key sets that cannot be fetched; nil means nobody does.
	Log *slog.Logger
}

// Verifier checks tokens. It is safe for concurrent use.
type Verifier struct {
	keys     []*key
	sets     []*keySet
	audience []string
	now      func() time.Time
	cache    tokenCache
}

// New returns a Verifier, or an error that joins everything that is wrong with c.
func New(c Config) (*Verifier, error) {
	rule := addressRule{local: c.BlockLocal, ranges: c.RejectRanges}
	return newVerifier(c, rule, newFetcher(rule))
}

func newVerifier(c Config, rule addressRule, fetch fetcher) (*Verifier, error) {
	v := &Verifier{audience: slices.Clone(c.Audience), now: c.Now}
	if v.now == nil {
		v.now = time.Now
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	for i, jwk := range c.Keys {
		k, err := newKey(jwk, ordinary)
		if err != nil {
			errs = append(errs, protocol.Errorf(protocol.ConfigInvalid, "client_auth.jwks.keys[%d] (kid %q): %w", i, jwk.KeyID, err))
			continue
		}
		v.keys = append(v.keys, k)
	}
	if c.SupabaseSecret != "" {
		v.keys = append(v.keys, &key{
			algorithms: []jose.SignatureAlgorithm{jose.HS256}, verifier: hmacKey(c.SupabaseSecret), policy: supabase,
		})
	}
	add := func(uri string, p policy) {
		if err := checkURI(uri, rule); err != nil {
			errs = append(errs, err)
			return
		}
		v.sets = append(v.sets, &keySet{
			uri: redacted(uri), policy: p, now: v.now, log: log,
			fetch: func(ctx context.Context) ([]byte, error) { return fetch(ctx, uri) },
		})
	}
	for _, uri := range c.KeySetURIs {
		add(uri, ordinary)
	}
	if c.SupabaseKeySetURI != "" {
		add(c.SupabaseKeySetURI, supabase)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("set up authentication: %w", err)
	}
	return v, nil
}

func redacted(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return ""
	}
	return u.Redacted()
}

// Close ends fetches of key sets that are under way and waits for them. Tokens that
// need a fetch are refused from then on.
func (v *Verifier) Close() {
	for _, s := range v.sets {
		s.close()
	}
}

// Verify checks an Authorization header, "Token" or "Bearer" and a token. The error
// is a *Rejection, and by that a *protocol.Error with status 401. It may wait up to
// three seconds for remote keys.
func (v *Verifier) Verify(ctx context.Context, header string) (*Claims, error) {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || scheme != "Token" && scheme != "Bearer" || token == "" || strings.ContainsFunc(token, unicode.IsSpace) {
		e := protocol.Errorf(protocol.TokenMissing, `Authentication required: send the header "Authorization: Token JWT"`)
		return nil, &Rejection{Err: e, Check: CheckHeader}
	}
	now := float64(v.now().UnixNano()) / 1e9
	if known, ok := v.cache.get(token); ok {
		if now < known.until && (known.set == nil || known.set.valid(ctx, known.generation)) {
			return known.claims, nil
		}
		v.cache.drop(token)
	}
	fresh, f := v.verify(ctx, token, now)
	if f != nil {
		r := &Rejection{Err: f.err, Check: f.check, Want: f.want}
		if len(token) <= maxToken {
			r.Said = said(token)
		}
		return nil, r
	}
	v.cache.put(token, fresh)
	return fresh.claims, nil
}

func (v *Verifier) verify(ctx context.Context, token string, now float64) (verified, *flaw) {
	if len(token) > maxToken {
		return verified{}, flawf(CheckForm, protocol.Unauthorized, "The token is longer than %d bytes", maxToken)
	}
	jws, err := jose.ParseSignedCompact(token, allAlgorithms)
	if err != nil {
		if errors.As(err, new(*jose.ErrUnexpectedSignatureAlgorithm)) {
			return verified{}, flawf(CheckAlgorithm, protocol.Unauthorized, "The token's algorithm is not supported: use one of %v", allAlgorithms)
		}
		// What go-jose says could quote the token.
		return verified{}, flawf(CheckForm, protocol.Unauthorized, "The token is not a signed JWT in its compact form")
	}
	k, set, generation, f := v.findKey(ctx, jws)
	if f != nil {
		return verified{}, f
	}
	// findKey has verified the signature over exactly this payload.
	claims, f := readClaims(jws.UnsafePayloadWithoutVerification(), k.policy, v.audience, now)
	if f != nil {
		return verified{}, f
	}
	until := float64(claims.Expires.UnixNano())/1e9 + tolerance
	return verified{claims: claims, until: until, set: set, generation: generation}, nil
}

// findKey returns the key that verifies the token, and the set it is of.
//
// Keys that have the token's kid speak for the token: if there is one, no wildcard is
// tried. Configured keys come before remote ones, and fetches last, so that a token
// which needs none never waits. Sets are fetched side by side: one whose host hangs
// does not keep the keys of the others away.
func (v *Verifier) findKey(ctx context.Context, jws *jose.JSONWebSignature) (*key, *keySet, uint64, *flaw) {
	header := jws.Signatures[0].Header
	t := trial{jws: jws, id: header.KeyID, alg: jose.SignatureAlgorithm(header.Algorithm)}
	if k := t.run(v.keys); k != nil || t.decided {
		return k, nil, 0, t.flaw(k)
	}
	seen := make([]view, len(v.sets))
	for i, s := range v.sets {
		if seen[i] = s.current(ctx); !seen[i].usable {
			continue
		}
		if k := t.run(seen[i].keys); k != nil {
			return k, s, seen[i].generation, nil
		}
		t.note(seen[i].unfit)
	}

	wait, cancel := context.WithTimeout(ctx, fetchWait)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	arrived := make(chan int, len(v.sets))
	fetching := 0
	for i, s := range v.sets {
		// A token without kid does not say that there is another key, nor does one whose
		// kid is known; but a set that has not been seen may have the same.
		if seen[i].usable && (t.id == "" || t.decided) {
			continue
		}
		fetching++
		f := s.refresh(ctx)
		waiting.Go(func() {
			f.await(wait)
			arrived <- i
		})
	}
	var failed error
	for range fetching {
		i := <-arrived
		s := v.sets[i]
		again := s.view()
		switch {
		case !again.usable:
			failed = again.err
		case !seen[i].usable || again.generation != seen[i].generation:
			if k := t.run(again.keys); k != nil {
				return k, s, again.generation, nil
			}
			t.note(again.unfit)
		}
	}
	if failed != nil && !t.decided {
		return nil, nil, 0, &flaw{check: CheckKeys, err: protocol.AsError(failed)}
	}
	return nil, nil, 0, t.flaw(nil)
}

// trial is the search for a token's key.
type trial struct {
	jws *jose.JSONWebSignature
	id  string
	alg jose.SignatureAlgorithm
	// decided: a key with the token's id was found, so the search is over.
	decided bool
	// What became of the keys seen so far.
	tried, mismatched bool
	ids               []string
	// unfit is why a key that has the token's id cannot be used.
	unfit string
}

// note looks for the token's key among those that cannot be used.
func (t *trial) note(list []unfit) {
	for _, u := range list {
		if u.id != "" && u.id == t.id {
			t.unfit = u.why
		}
	}
}

// run tries keys and returns the one that verifies the token, if any.
func (t *trial) run(keys []*key) *key {
	for _, wildcards := range []bool{false, true} {
		for _, k := range keys {
			named := k.id != ""
			if named == wildcards || named && k.id != t.id {
				if named && !wildcards && len(t.ids) < maxRemoteKeys {
					t.ids = append(t.ids, k.id)
				}
				continue
			}
			t.decided = t.decided || named
			if !k.allows(t.alg) {
				t.mismatched = t.mismatched || named
				continue
			}
			t.tried = true
			if _, err := t.jws.Verify(k.verifier); err == nil {
				return k
			}
		}
		if t.decided {
			return nil
		}
	}
	return nil
}

// flaw says what was wrong if no key verified the token, nil if k did.
func (t *trial) flaw(k *key) *flaw {
	switch {
	case k != nil:
		return nil
	case t.tried && t.decided:
		return flawf(CheckSignature, protocol.Unauthorized, "The token's signature does not match the key that its kid names: sign with that key's private half")
	case t.mismatched:
		return flawf(CheckAlgorithm, protocol.Unauthorized, "The token's algorithm is not one that the key its kid names is for")
	}
	var f *flaw
	switch {
	case t.unfit != "":
		f = flawf(CheckKey, protocol.Unauthorized, "The key that the token's kid names cannot be used: %s", t.unfit)
	case t.tried && t.id != "":
		f = flawf(CheckKey, protocol.Unauthorized, "No key has the token's kid, and none without kid verifies it")
	case t.tried:
		f = flawf(CheckSignature, protocol.Unauthorized, "No key without kid verifies the token, which has none itself")
	case t.id != "":
		f = flawf(CheckKey, protocol.Unauthorized, "No key has the token's kid: compare it with client_auth.jwks and jwks_uri")
	default:
		f = flawf(CheckKey, protocol.Unauthorized, "The token has no kid, and there is no key without kid for its algorithm")
	}
	slices.Sort(t.ids)
	f.want = slices.Compact(t.ids)
	return f
}
