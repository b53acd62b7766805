package server

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/go-jose/go-jose/v4"

	"github.com/millrace-sync/millrace/internal/auth"
	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/streams"
)

const (
	defaultBuckets       = 10_000
	defaultLookupResults = 10_000
)

// limits returns the limits of one request.
func limits(cfg *config.Config) streams.Limits {
	return streams.Limits{
		Buckets:       cmp.Or(cfg.API.Limits.BucketsPerConnection, defaultBuckets),
		LookupResults: cmp.Or(cfg.API.Limits.ParameterQueryResults, defaultLookupResults),
	}
}

// connections returns how many streams may be open: as configured, else as many as
// descriptors and memory allow.
func connections(cfg *config.Config, r resources) int {
	return cmp.Or(cfg.API.Limits.Connections, r.streams())
}

// adminTokens returns the tokens of the admin API.
func adminTokens(cfg *config.Config) []string {
	out := make([]string, len(cfg.API.Tokens))
	for i, t := range cfg.API.Tokens {
		out[i] = string(t)
	}
	return out
}

// sourceConfig translates the connection to the source for the postgres package.
func sourceConfig(c *config.Connection) postgres.Config {
	out := connectionConfig(c)
	out.Patience = c.SnapshotTimeout
	out.Slot, out.Publication, out.ApplicationName = c.SlotPrefix+"1", postgres.DefaultPublication, "millrace"
	return out
}

// backfillReaders returns how many chunks may be read at once, with so many connections
// to the source: the follower, the stream, the watch of the catalog and the markers of
// write checkpoints have one each.
func backfillReaders(pool int) int {
	return min(tableReaders, pool-(config.LeastPool-1))
}

// connectionConfig translates a configured connection, as far as the source and
// storage have it in common.
func connectionConfig(c *config.Connection) postgres.Config {
	out := postgres.Config{
		Host: c.Host, Port: uint16(c.Port), User: c.User, Password: string(c.Password), Database: c.Database,
		TLS: postgres.TLSMode(c.SSLMode), CACert: []byte(c.CACert), ClientCert: []byte(c.ClientCert), ClientKey: []byte(c.ClientKey),
		ServerName: c.ServerName, ConnectTimeout: c.ConnectTimeout, Options: c.Options,
	}
	if c.RejectIPRanges.Local || len(c.RejectIPRanges.Prefixes) > 0 {
		out.Refuse = func(a netip.Addr) error { return refuse(c.RejectIPRanges, a) }
	}
	return out
}

// refuse says why an address may not be connected to, nil if it may.
func refuse(r config.IPRanges, a netip.Addr) error {
	private := a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast()
	if r.Local && private {
		return fmt.Errorf("address %s is not public, and reject_ip_ranges has local", a)
	}
	for _, p := range r.Prefixes {
		if p.Contains(a) {
			return fmt.Errorf("address %s is in %s, which reject_ip_ranges refuses", a, p)
		}
	}
	return nil
}

// newVerifier sets up the check of tokens.
func newVerifier(cfg *config.Config, log *slog.Logger) (*auth.Verifier, error) {
	c := &cfg.ClientAuth
	out := auth.Config{
		KeySetURIs: c.JWKSURIs, BlockLocal: c.BlockLocalJWKS || c.RejectIPRanges.Local, RejectRanges: c.RejectIPRanges.Prefixes,
		SupabaseKeySetURI: c.SupabaseJWKSURI, SupabaseSecret: string(c.SupabaseJWTSecret), Audience: c.Audience, Log: log,
	}
	for _, k := range c.Keys {
		var jwk jose.JSONWebKey
		if err := jwk.UnmarshalJSON([]byte(k.JWK)); err != nil {
			return nil, fmt.Errorf("%s:%d:%d: %s: %w", k.File, k.Line, k.Column, k.Path, err)
		}
		out.Keys = append(out.Keys, jwk)
	}
	return auth.New(out)
}
