package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
)

// TLSMode says how a connection is protected; the zero value is VerifyFull.
type TLSMode string

// The ways of protecting a connection.
const (
	VerifyFull TLSMode = "verify-full" // the certificate is good and for the host
	VerifyCA   TLSMode = "verify-ca"   // the certificate descends from CACert
	DisableTLS TLSMode = "disable"
)

// Defaults of Config.
const (
	DefaultPublication    = "powersync"
	DefaultSlotPrefix     = "powersync_"
	DefaultConnectTimeout = 20 * time.Second
	DefaultPatience       = 30 * time.Second
	DefaultIdleTimeout    = 60 * time.Second
	DefaultStatusInterval = 10 * time.Second
	DefaultSlotTimeout    = 30 * time.Second
	DefaultPartBytes      = 1 << 20
	DefaultPartChanges    = 4096
)

// Config says how to reach the database and what to replicate by. Zero fields
// mean the defaults.
type Config struct {
	// Host is a name, an address, or the directory of a Unix socket.
	Host     string
	Port     uint16
	User     string
	Password string
	Database string

	TLS TLSMode
	// CACert, ClientCert and ClientKey are PEM. Without CACert the system's roots hold.
	CACert, ClientCert, ClientKey []byte
	// ServerName overrides Host in the check of the certificate.
	ServerName string
	// Refuse, if set, is asked about each address before it is connected to.
	Refuse func(netip.Addr) error

	// Options are the server's command-line options for connections, such as
	// -c search_path=app, as the option of that name in a connection URI. What is read
	// here depends on settings of its own, which they cannot change.
	Options string

	Slot            string
	Publication     string
	ApplicationName string

	// ConnectTimeout bounds connecting and logging in.
	ConnectTimeout time.Duration
	// Patience is how long a connection that was asked for something may be silent
	// before it counts as broken. What is asked for may take as long as it likes, if
	// only something comes.
	Patience time.Duration
	// IdleTimeout is how long the change stream may be silent, though the server is
	// asked to say something, before the connection counts as broken.
	IdleTimeout time.Duration
	// StatusInterval is how often the server is told how far we are.
	StatusInterval time.Duration
	// SlotTimeout bounds one attempt to create the slot, which waits for every
	// transaction that is open on the server, in any database.
	SlotTimeout time.Duration

	// PartBytes and PartChanges bound one part of a transaction. A part exceeds them
	// by one row at most.
	PartBytes, PartChanges int
}

// withDefaults fills in what is not set.
func (c Config) withDefaults() Config {
	if c.Port == 0 {
		c.Port = 5432
	}
	if c.TLS == "" {
		c.TLS = VerifyFull
	}
	if c.Slot == "" {
		c.Slot = DefaultSlotPrefix + "1"
	}
	if c.Publication == "" {
		c.Publication = DefaultPublication
	}
	if c.ApplicationName == "" {
		c.ApplicationName = "millrace"
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.ConnectTimeout, DefaultConnectTimeout},
		{&c.Patience, DefaultPatience},
		{&c.IdleTimeout, DefaultIdleTimeout},
		{&c.StatusInterval, DefaultStatusInterval},
		{&c.SlotTimeout, DefaultSlotTimeout},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.PartBytes == 0 {
		c.PartBytes = DefaultPartBytes
	}
	if c.PartChanges == 0 {
		c.PartChanges = DefaultPartChanges
	}
	return c
}

// Connect opens a connection for queries, with the settings that pgtypes needs. It
// belongs to one goroutine at a time. Every failure is an *Error.
func Connect(ctx context.Context, c Config) (*pgconn.PgConn, error) {
	return connect(ctx, c.withDefaults(), false)
}

// connect opens a connection for queries or, with replication, for replication
// commands and simple queries. c has its defaults.
func connect(ctx context.Context, c Config, replication bool) (*pgconn.PgConn, error) {
	conn, _, err := connectPatiently(ctx, c, replication)
	return conn, err
}

// abandoned has the server end what a connection was doing once nobody takes its
// answers any more: a chunk's transaction would otherwise keep its lock on a table,
// and so everyone who alters or truncates it waiting, for as long as the server
// believes in a process or a network that is gone. A stream has its own time limit.
var abandoned = map[string]string{
	"idle_in_transaction_session_timeout": "30s",
	"tcp_user_timeout":                    "60s",
	"tcp_keepalives_idle":                 "40s",
	"tcp_keepalives_interval":             "10s",
	"tcp_keepalives_count":                "3",
}

// connectPatiently is connect that also gives what bounds the server's silence.
func connectPatiently(ctx context.Context, c Config, replication bool) (*pgconn.PgConn, *patientConn, error) {
	pc, err := c.driverConfig()
	if err != nil {
		return nil, nil, err
	}
	if replication {
		pc.RuntimeParams["replication"] = "database"
	} else {
		for name, value := range abandoned {
			if !strings.Contains(c.Options, name) { // the operator knows better
				pc.RuntimeParams[name] = value
			}
		}
	}
	conn, patient, err := c.dial(ctx, pc)
	if refusesSettings(err) && !replication {
		// A pooler between knows few settings. Without these a lock may be held for
		// longer than need be, which is no reason to do without the source.
		for name := range abandoned {
			delete(pc.RuntimeParams, name)
		}
		conn, patient, err = c.dial(ctx, pc)
	}
	return conn, patient, err
}

// refusesSettings reports whether a server has refused a connection on account of a
// setting that it does not know, or does not let us change.
func refusesSettings(err error) bool {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return false
	}
	switch refused.Code {
	case "08P01", "42704", "42501", "22023": // protocol_violation, undefined_object, insufficient_privilege, invalid_parameter_value
		return true
	}
	return false
}

// dial opens a connection.
func (c *Config) dial(ctx context.Context, pc *pgconn.Config) (*pgconn.PgConn, *patientConn, error) {
	pc = pc.Copy()
	// How far the attempt got tells a TLS failure from others.
	var reached, secured bool
	var patient *patientConn
	dial := pc.DialFunc
	pc.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		reached, secured = err == nil, false
		if err != nil {
			return nil, err
		}
		patient = &patientConn{Conn: conn, patience: c.Patience}
		return patient, nil
	}
	pc.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		secured = true
		return conn, nil
	}
	conn, err := pgconn.ConnectConfig(ctx, pc)
	if err == nil {
		return conn, patient, nil
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil, nil, fmt.Errorf("connect to Postgres: %w", ctx.Err())
	}
	return nil, nil, c.connectFailure(err, reached && !secured && pc.TLSConfig != nil)
}

// driverConfig translates c. Nothing is taken from the environment.
func (c *Config) driverConfig() (*pgconn.Config, error) {
	// The driver insists on making its own configuration; every part of it that the
	// environment could have set is set again.
	pc, err := pgconn.ParseConfig("host=localhost user=nobody sslmode=disable target_session_attrs=any passfile=none")
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	pc.Host, pc.Port, pc.User, pc.Password, pc.Database = c.Host, c.Port, c.User, c.Password, c.Database
	pc.Fallbacks, pc.ValidateConnect = nil, nil
	pc.ConnectTimeout = c.ConnectTimeout
	if pc.TLSConfig, err = c.tlsConfig(); err != nil {
		return nil, err
	}
	pc.RuntimeParams = map[string]string{"application_name": c.ApplicationName, "statement_timeout": "0", "client_min_messages": "warning"}
	maps.Copy(pc.RuntimeParams, pgtypes.Settings())
	if c.Options != "" {
		pc.RuntimeParams["options"] = c.Options
	}
	dialer := &net.Dialer{
		Timeout: c.ConnectTimeout,
		// A peer that is gone without a word is noticed within about a minute.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 40 * time.Second, Interval: 10 * time.Second, Count: 3},
	}
	if c.Refuse != nil {
		dialer.Control = func(network, address string, _ syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return c.Refuse(ap.Addr().Unmap())
		}
	}
	pc.DialFunc = dialer.DialContext
	return pc, nil
}

func (c *Config) tlsConfig() (*tls.Config, error) {
	if c.TLS == DisableTLS || strings.HasPrefix(c.Host, "/") {
		return nil, nil
	}
	name := c.ServerName
	if name == "" {
		name = c.Host
	}
	t := &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}
	bad := func(what string, err error) error {
		return &Error{Code: codeCA, Kind: ErrConfig, Cause: ErrTLS, Message: what, Err: err}
	}
	if len(c.CACert) > 0 {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(c.CACert) {
			return nil, bad("cacert holds no PEM certificate", nil)
		}
	}
	if len(c.ClientCert) > 0 {
		pair, err := tls.X509KeyPair(c.ClientCert, c.ClientKey)
		if err != nil {
			return nil, bad("client_certificate and client_private_key do not fit", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	switch c.TLS {
	case VerifyFull:
	case VerifyCA:
		// The standard check includes the name; this is the same one without it.
		t.InsecureSkipVerify = true
		t.VerifyConnection = func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("the server showed no certificate")
			}
			opts := x509.VerifyOptions{Roots: t.RootCAs, Intermediates: x509.NewCertPool()}
			for _, cert := range cs.PeerCertificates[1:] {
				opts.Intermediates.AddCert(cert)
			}
			_, err := cs.PeerCertificates[0].Verify(opts)
			return err
		}
	default:
		return nil, bad(fmt.Sprintf("sslmode %q is none of verify-full, verify-ca, disable", c.TLS), nil)
	}
	return t, nil
}

// connectFailure says why there is no connection. securing says that it broke
// while TLS was being set up.
func (c *Config) connectFailure(err error, securing bool) error {
	where := fmt.Sprintf("connect to Postgres at %s:%d", c.Host, c.Port)
	if strings.HasPrefix(c.Host, "/") {
		where = fmt.Sprintf("connect to Postgres at %s/.s.PGSQL.%d", c.Host, c.Port)
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		err = connect.Unwrap() // drop the driver's repetition of user and database
	}
	var dns *net.DNSError
	var refused *pgconn.PgError
	var wrongName x509.HostnameError
	var unknownCA x509.UnknownAuthorityError
	out := &Error{Code: codeTimeout, Kind: ErrTransient, Cause: ErrUnreachable, Message: where, Err: err}
	switch {
	case errors.As(err, &refused):
		return refusal(fmt.Sprintf("%s as %s, database %s", where, c.User, c.Database), refused)
	case errors.As(err, &dns):
		out.Code, out.Cause = codeHost, ErrHostNotFound
		out.Hint = "check the connection's hostname, and that this machine can resolve it"
	case errors.As(err, &wrongName):
		out.Code, out.Kind, out.Cause = codeCA, ErrConfig, ErrTLS
		out.Hint = "set hostname or tls_servername to a name in the server's certificate, or sslmode to verify-ca"
	case errors.As(err, &unknownCA):
		out.Code, out.Kind, out.Cause = codeCA, ErrConfig, ErrTLS
		out.Hint = "set cacert to the certificate of the authority that signed the server's"
	case securing && !isTimeout(err) && !isNetwork(err):
		out.Code, out.Kind, out.Cause = codeCA, ErrConfig, ErrTLS
		out.Hint = "let the server offer TLS (ssl = on), or on a trusted network set sslmode to disable"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		out.Hint = "check that the server runs and listens on this address and port"
	default:
		out.Hint = "check that the server runs and that no firewall stands between"
	}
	return out
}
