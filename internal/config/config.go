// Package config reads powersync.yaml, the service's configuration file, into a
// Config. It is an edge: it reads the environment and files. cmd/millrace calls
// Load once; internal/server receives the Config and hands its parts on.
//
// Invariants:
//   - Every mistake in the file is reported at once, each with its place.
//   - A Config that Load returns is complete and checked: whoever reads it need not
//     check it again, nor may anyone change it.
//   - No secret of the file or the environment is printed, neither by a Config nor
//     by a Problem: Problems show only those parts of a line that are known to be
//     public.
//
// A few keys of the PowerSync Service are read and checked but mean nothing here, of
// which a warning tells with their place. Two need none: _type says which edition of
// the service a file is for, and telemetry.disable_telemetry_sharing is always granted,
// since nothing is ever sent.
package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/millrace-sync/millrace/internal/streams"
)

// Config is a checked configuration. It is immutable by convention.
type Config struct {
	// File names the document it came from, as in diagnostics.
	File       string
	Connection Connection
	Storage    Storage
	// Port is the port to serve on; 0 means any free one.
	Port       int
	Sync       Sync
	ClientAuth ClientAuth
	API        API
	Telemetry  Telemetry
	Probes     Probes
	Logging    Logging
}

// SSLMode says how a connection to Postgres is protected.
type SSLMode string

// The ways of protecting a connection.
const (
	// VerifyFull checks the server's certificate and that it is for the host name.
	VerifyFull SSLMode = "verify-full"
	// VerifyCA checks that the certificate descends from Connection.CACert.
	VerifyCA SSLMode = "verify-ca"
	// DisableSSL neither encrypts nor checks.
	DisableSSL SSLMode = "disable"
)

// Connection is the way to a Postgres database.
type Connection struct {
	// ID is the connection's name in the admin API.
	ID string
	// Tag is the connection's name in a sync config's table names.
	Tag string
	// Host is a name, an address, or the directory of a Unix socket if it starts
	// with a slash; Password may be empty only in the last case.
	Host     string
	Port     int
	User     string
	Password Secret
	Database string
	SSLMode  SSLMode
	// Options are the URI's options: command-line options of the server for our
	// connections.
	Options string
	// CACert, ClientCert and ClientKey are PEM; empty means not given. CACert is
	// given if SSLMode is VerifyCA; ClientCert and ClientKey come together.
	CACert     string
	ClientCert string
	ClientKey  Secret
	// ServerName overrides Host in the check of the certificate.
	ServerName     string
	RejectIPRanges IPRanges
	// SlotPrefix begins the names of the replication slots.
	SlotPrefix string
	// MaxPoolSize bounds the connections other than the replication stream's; of a
	// source it is LeastPool at least.
	MaxPoolSize    int
	ConnectTimeout time.Duration
	// SnapshotTimeout bounds the silence of a connection that was asked for something,
	// such as the rows of a table.
	SnapshotTimeout time.Duration
	// Heartbeat is the interval of the messages that let the slot advance while the
	// database is quiet.
	Heartbeat time.Duration
	// DebugAPI lets whoever has an admin token run SQL on the database.
	DebugAPI bool
}

// IPRanges are addresses that may not be connected to.
type IPRanges struct {
	// Local means every address that is not public: loopback, private, link-local.
	Local    bool
	Prefixes []netip.Prefix
}

// StorageType is a kind of store.
type StorageType string

// The kinds of stores.
const (
	Pebble     StorageType = "pebble"     // in a folder, for one process
	PostgreSQL StorageType = "postgresql" // in a database, for several
)

// Storage is where data is kept.
type Storage struct {
	Type StorageType
	// Path is the folder of a Pebble store, relative to the working directory unless
	// absolute.
	Path string
	// Connection leads to the database of a store in Postgres. Of its keys those of a
	// source are not set.
	Connection *Connection
	// Schema holds the tables of a store in Postgres, and nothing else.
	Schema string
	// NoMigrate leaves it to millrace migrate to create and change the tables.
	NoMigrate bool
}

// String says where data is kept: the folder, or the database and the schema.
func (s *Storage) String() string {
	if s.Type == Pebble {
		return s.Path
	}
	c := s.Connection
	return fmt.Sprintf("%s/%s, schema %s", net.JoinHostPort(c.Host, strconv.Itoa(c.Port)), c.Database, s.Schema)
}

// Sync is the sync config and what to do when it is wrong.
type Sync struct {
	// Source is empty if the configuration has no sync config: what was deployed to
	// the running service is served then.
	Source streams.Source
	// ExitOnError ends the process if the sync config does not compile; otherwise it
	// goes on serving the one deployed before.
	ExitOnError bool
}

// Supplied reports whether the configuration has a sync config.
func (s *Sync) Supplied() bool { return s.Source.File != "" }

// ClientAuth says which tokens clients may use.
type ClientAuth struct {
	// Audience lists the accepted audiences; if empty, no token is accepted.
	Audience []string
	// Keys are the keys written into the file.
	Keys []Key
	// JWKSURIs are where more keys are fetched from; http or https.
	JWKSURIs []string
	// BlockLocalJWKS refuses to fetch keys from addresses that are not public.
	BlockLocalJWKS bool
	RejectIPRanges IPRanges
	// Supabase accepts the tokens of Supabase Auth: SupabaseJWKSURI is where its
	// keys are, or empty if the connection's host does not name the project.
	Supabase        bool
	SupabaseJWKSURI string
	// SupabaseJWTSecret is the shared HS256 secret, as text; empty means none.
	SupabaseJWTSecret Secret
}

// Key is one key of client_auth.jwks.keys. Its form has been checked: the members
// that its kty needs are there and are base64url of a fitting length.
type Key struct {
	// JWK is the key as a JSON object, without private members.
	JWK Secret
	// Path, File, Line and Column say where the key is written.
	Path, File   string
	Line, Column int
}

// API holds the admin tokens and the limits.
type API struct {
	Tokens []Secret
	Limits Limits
}

// Limits are the service's limits; 0 means not set, so that the default applies.
type Limits struct {
	Connections           int
	DataFetches           int
	BucketsPerConnection  int
	ParameterQueryResults int
	// CheckpointRequestRetention is how long a checkpoint request is kept at least;
	// never 0.
	CheckpointRequestRetention time.Duration
}

// Telemetry says where metrics are served; nothing is ever sent.
type Telemetry struct {
	// PrometheusPort is 0 if metrics are not wanted.
	PrometheusPort int
}

// Probes says how health is shown.
type Probes struct {
	HTTP       bool
	Filesystem bool
}

// Logging says how the log is written.
type Logging struct {
	Level slog.Level
	// JSON writes one JSON object a line, otherwise key=value text.
	JSON bool
}

// LogValue shows what identifies a configuration, and no secret.
func (c *Config) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("file", c.File),
		slog.Int("port", c.Port),
		slog.Group("connection",
			slog.String("host", c.Connection.Host),
			slog.Int("port", c.Connection.Port),
			slog.String("database", c.Connection.Database),
			slog.String("user", c.Connection.User),
			slog.String("sslmode", string(c.Connection.SSLMode))),
		slog.String("storage", c.Storage.String()),
		slog.String("sync_config", c.Sync.Source.File),
		slog.Int("keys", len(c.ClientAuth.Keys)),
		slog.Int("jwks_uris", len(c.ClientAuth.JWKSURIs)),
		slog.Int("api_tokens", len(c.API.Tokens)),
	)
}

// String shows what LogValue shows.
func (c *Config) String() string { return c.LogValue().String() }
