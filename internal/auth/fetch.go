package auth

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/millrace-sync/millrace/protocol"
)

const (
	// maxKeySet bounds the document of a key set, in bytes.
	maxKeySet = 1 << 20
	// maxRedirects bounds the redirects that lead to it.
	maxRedirects = 3
)

// addressRule says which addresses key sets may be fetched from.
type addressRule struct {
	local  bool // refuse all that are not public
	ranges []netip.Prefix
}

func (r addressRule) any() bool { return !r.local && len(r.ranges) == 0 }

// refuse returns why an address may not be connected to, nil if it may.
func (r addressRule) refuse(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	if r.local && !isPublic(a) {
		return protocol.Errorf(protocol.KeysAddressRefused, "The token's keys are at an address that is not public: use a public jwks_uri, or unset block_local_jwks")
	}
	for _, p := range r.ranges {
		if p.Contains(a) {
			return protocol.Errorf(protocol.KeysAddressRefused, "The token's keys are at an address that jwks_reject_ip_ranges refuses")
		}
	}
	return nil
}

// reserved holds the networks within the public ones that are for special purposes,
// of IANA's registries. Those that carry IPv4 addresses are among them: they could
// lead back to a private one.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // shared, behind carriers
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), // documentation
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("2001::/23"), // Teredo and others
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), // 6to4
	netip.MustParsePrefix("3fff::/20"), // documentation
}

// globalIPv6 holds all public IPv6 addresses that were ever given out.
var globalIPv6 = netip.MustParsePrefix("2000::/3")

// isPublic reports whether an address is reachable on the internet and means the
// same everywhere.
func isPublic(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.Is6() && !globalIPv6.Contains(a) {
		return false
	}
	for _, p := range reserved {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// newFetcher returns a fetcher over HTTP. Addresses are checked when a connection is
// made, after names were resolved, at every redirect. Connections are not kept: sets
// are fetched every few minutes at most. Proxies are not used, as they would hide
// the address.
func newFetcher(rule addressRule) fetcher {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	if !rule.any() {
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("check the address %q: %w", address, err)
			}
			return rule.refuse(at.Addr())
		}
	}
	client := &http.Client{
		CheckRedirect: checkRedirect,
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    10 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			DisableKeepAlives:      true,
			ForceAttemptHTTP2:      true,
		},
	}
	return func(ctx context.Context, uri string) ([]byte, error) { return get(ctx, client, uri) }
}

// checkRedirect bounds redirects, and keeps them from giving up encryption.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	from, to := via[len(via)-1].URL.Scheme, r.URL.Scheme
	if to != "https" && (to != "http" || from == "https") {
		return fmt.Errorf("redirect from %s to %s", from, to)
	}
	return nil
}

func get(ctx context.Context, client *http.Client, uri string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch a key set: %w", err)
	}
	r.Header.Set("Accept", "application/json, application/jwk-set+json")
	r.Header.Set("User-Agent", "millrace")
	resp, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("fetch a key set: %w", err) // url.Error hides passwords
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch a key set: the answer has status %s, not 200", resp.Status)
	}
	doc, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySet+1))
	if err != nil {
		return nil, fmt.Errorf("fetch a key set: %w", err)
	}
	if len(doc) > maxKeySet {
		return nil, fmt.Errorf("fetch a key set: the answer is longer than %d bytes", maxKeySet)
	}
	return doc, nil
}

// checkURI checks the URI of a key set before anything is fetched from it.
func checkURI(uri string, rule addressRule) error {
	u, err := url.Parse(uri)
	if err != nil {
		// The error would quote the URI, which may hold a password.
		return protocol.Errorf(protocol.KeysURIInvalid, "client_auth.jwks_uri is not a URI: write https://HOST/PATH")
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		return protocol.Errorf(protocol.KeysSchemeInvalid, "client_auth.jwks_uri %q must begin with https:// or http://", u.Redacted())
	}
	if u.Hostname() == "" {
		return protocol.Errorf(protocol.KeysURIInvalid, "client_auth.jwks_uri %q names no host: write https://HOST/PATH", u.Redacted())
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := rule.refuse(a); err != nil {
			return fmt.Errorf("client_auth.jwks_uri %q: %w", u.Redacted(), err)
		}
	}
	return nil
}
