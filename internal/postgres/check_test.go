package postgres_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/internal/postgres"
)

// repair runs what an error says repairs it, as a superuser, and restarts the
// server if it says so.
func repair(t *testing.T, c *pgtest.Cluster, dsn string, err error) {
	t.Helper()
	for _, e := range problemsOf(t, err) {
		if len(e.SQL) == 0 {
			t.Errorf("no SQL to repair: %v", e)
		}
		pgtest.Exec(t, dsn, e.SQL...)
		if strings.Contains(e.Hint, "restart the server") {
			if err := c.Restart(t.Context(), pgtest.Fast); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// problemsOf takes the errors of Check apart.
func problemsOf(t *testing.T, err error) []*postgres.Error {
	t.Helper()
	list := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		if _, one := err.(*postgres.Error); !one {
			list = joined.Unwrap()
		}
	}
	var out []*postgres.Error
	for _, err := range list {
		var e *postgres.Error
		if !errors.As(err, &e) {
			t.Fatalf("not an *Error: %v", err)
		}
		out = append(out, e)
	}
	return out
}

func TestCheckNamesTheRepair(t *testing.T) {
	cases := []struct {
		name     string
		options  []pgtest.Option
		breakage string // as superuser; %s is the database
		codes    []string
		message  string
	}{
		{
			name: "publication missing", breakage: "DROP PUBLICATION powersync",
			codes: []string{"PSYNC_S1141"}, message: `publication "powersync" does not exist`,
		},
		{
			name: "publication without truncate", breakage: "ALTER PUBLICATION powersync SET (publish = 'insert, update, delete')",
			codes: []string{"PSYNC_S1142"}, message: "does not publish all of",
		},
		{
			name: "publication via root", breakage: "ALTER PUBLICATION powersync SET (publish_via_partition_root = true)",
			codes: []string{"PSYNC_S1143"}, message: "as their root table",
		},
		{
			name: "role without replication", breakage: "ALTER ROLE reader NOREPLICATION",
			codes: []string{"PSYNC_S1101"}, message: "role reader may not replicate",
		},
		{
			name: "several at once", breakage: "ALTER ROLE reader NOREPLICATION; DROP PUBLICATION powersync",
			codes: []string{"PSYNC_S1101", "PSYNC_S1141"},
		},
		{
			name: "wal_level replica", options: []pgtest.Option{pgtest.WithSetting("wal_level", "replica")},
			codes: []string{"PSYNC_S1101"}, message: "wal_level is replica",
		},
		{
			name: "no replication slots", options: []pgtest.Option{pgtest.WithSetting("max_replication_slots", "0")},
			codes: []string{"PSYNC_S1101"}, message: "all 0 replication slots",
		},
		{
			name:    "replication slots used up",
			options: []pgtest.Option{pgtest.WithSetting("max_replication_slots", "1")}, breakage: "SELECT pg_create_physical_replication_slot('other')",
			codes: []string{"PSYNC_S1101"}, message: "all 1 replication slots",
		},
		{
			name: "no replication connections", options: []pgtest.Option{pgtest.WithSetting("max_wal_senders", "0")},
			codes: []string{"PSYNC_S1101"}, message: "all 0 replication connections",
		},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := shared.Cluster(t)
			if tc.options != nil {
				c = pgtest.Start(t, tc.options...)
			}
			dsn := c.NewDatabase(t)
			pgtest.Exec(t, dsn, "DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN REPLICATION", "CREATE PUBLICATION powersync FOR ALL TABLES")
			t.Cleanup(func() { dropRole(t, c, "reader") })
			if tc.breakage != "" {
				pgtest.Exec(t, dsn, tc.breakage)
			}
			config := configOf(t, pgtest.As(t, dsn, "reader", ""))
			_, err := postgres.Check(t.Context(), config)
			if err == nil {
				t.Fatal("Check found nothing wrong")
			}
			var codes []string
			for _, e := range problemsOf(t, err) {
				codes = append(codes, e.Code)
				if !errors.Is(e, postgres.ErrConfig) {
					t.Errorf("kind of %v is not ErrConfig", e)
				}
			}
			if fmt.Sprint(codes) != fmt.Sprint(tc.codes) || !strings.Contains(err.Error(), tc.message) {
				t.Errorf("got %v, want %v with %q", err, tc.codes, tc.message)
			}
			repair(t, c, dsn, err)
			facts, err := postgres.Check(t.Context(), config)
			if err != nil {
				t.Fatalf("after the repair: %v", err)
			}
			if facts.Version < 140000 || facts.SystemID == "" || facts.Timeline != 1 || facts.DatabaseOID == 0 || len(facts.Warnings) != 0 {
				t.Errorf("facts: %+v", facts)
			}
		})
	}
}

// dropRole drops a role that owns nothing but rights in the test's database.
func dropRole(t *testing.T, c *pgtest.Cluster, role string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := postgres.Connect(ctx, configOf(t, c.DSN("postgres")))
	if err != nil {
		return // a cluster that goes anyway
	}
	defer conn.Close(ctx)
	conn.Exec(ctx, "DROP ROLE IF EXISTS "+role).Close()
}

func TestCheckWarnings(t *testing.T) {
	c := pgtest.Start(t)
	dsn := c.NewDatabase(t)
	pgtest.Exec(t, dsn, `CREATE ROLE "Re ader" LOGIN REPLICATION; CREATE PUBLICATION powersync FOR ALL TABLES;
		CREATE SCHEMA "S 1"; CREATE TABLE "S 1".closed (id int PRIMARY KEY);
		CREATE TABLE open (id int PRIMARY KEY); GRANT SELECT ON open TO PUBLIC;
		CREATE TABLE secret (id int PRIMARY KEY); GRANT SELECT ON secret TO PUBLIC; ALTER TABLE secret ENABLE ROW LEVEL SECURITY`)
	config := configOf(t, pgtest.As(t, dsn, "Re ader", ""))
	facts, err := postgres.Check(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, w := range facts.Warnings {
		codes = append(codes, w.Code)
		pgtest.Exec(t, dsn, w.SQL...)
	}
	if fmt.Sprint(codes) != "[PSYNC_S1101 PSYNC_S1145]" {
		t.Errorf("warnings: %v", facts.Warnings)
	}
	if facts, err = postgres.Check(t.Context(), config); err != nil || len(facts.Warnings) != 0 {
		t.Errorf("after the repair: %v %v", facts.Warnings, err)
	}
}

func TestCheckOnAStandbyIsRefused(t *testing.T) {
	// A server that recovers for ever looks like a standby, without a primary.
	c := pgtest.Start(t)
	dsn := c.NewDatabase(t)
	pgtest.Exec(t, dsn, "CREATE PUBLICATION powersync FOR ALL TABLES")
	if err := c.Stop(pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	if err := c.MarkStandby(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := postgres.Check(t.Context(), configOf(t, dsn))
	if !errors.Is(err, postgres.ErrConfig) || !strings.Contains(err.Error(), "is a standby") {
		t.Errorf("got %v", err)
	}
}

func TestConnectionFailures(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue(t, "db.example")
	c := pgtest.Start(t, pgtest.WithPassword("right"), pgtest.WithTLS(cert, key))
	plain := pgtest.Start(t)
	good := configOf(t, c.DSN("postgres"))
	pgtest.Exec(t, c.DSN("postgres"), "CREATE PUBLICATION powersync FOR ALL TABLES")
	cases := []struct {
		name   string
		change func(*postgres.Config)
		code   string // empty: connects
		kinds  []error
		says   string
	}{
		{name: "good", change: func(*postgres.Config) {}},
		{name: "wrong password", change: func(c *postgres.Config) { c.Password = "wrong" },
			code: "PSYNC_S1108", kinds: []error{postgres.ErrAuth}, says: "check the connection's username and password"},
		{name: "unknown user", change: func(c *postgres.Config) { c.User = "nobody" },
			code: "PSYNC_S1108", kinds: []error{postgres.ErrAuth}},
		{name: "database missing", change: func(c *postgres.Config) { c.Database = "nowhere" },
			code: "PSYNC_S1105", kinds: []error{postgres.ErrConfig, postgres.ErrDatabaseMissing}},
		{name: "server down", change: func(c *postgres.Config) { c.Port = unusedPort(t) },
			code: "PSYNC_S1121", kinds: []error{postgres.ErrTransient, postgres.ErrUnreachable}, says: "listens on this address and port"},
		{name: "socket missing", change: func(c *postgres.Config) { c.Host = t.TempDir() },
			code: "PSYNC_S1121", kinds: []error{postgres.ErrTransient, postgres.ErrUnreachable}},
		{name: "host unknown", change: func(c *postgres.Config) { c.Host = "no-such-host.invalid" },
			code: "PSYNC_S1106", kinds: []error{postgres.ErrTransient, postgres.ErrHostNotFound}},
		{name: "address refused", change: func(c *postgres.Config) {
			c.Refuse = func(a netip.Addr) error { return fmt.Errorf("%s is in reject_ip_ranges", a) }
		}, code: "PSYNC_S1121", kinds: []error{postgres.ErrTransient}, says: "127.0.0.1 is in reject_ip_ranges"},
		{name: "verify-full", change: func(c *postgres.Config) { c.TLS, c.CACert, c.ServerName = postgres.VerifyFull, ca.cert, "db.example" }},
		{name: "verify-full is the default", change: func(c *postgres.Config) { c.TLS, c.CACert, c.ServerName = "", ca.cert, "other.example" },
			code: "PSYNC_S1104", kinds: []error{postgres.ErrConfig, postgres.ErrTLS}, says: "tls_servername"},
		{name: "verify-ca does not look at the name", change: func(c *postgres.Config) { c.TLS, c.CACert = postgres.VerifyCA, ca.cert }},
		{name: "verify-ca of another authority", change: func(c *postgres.Config) { c.TLS, c.CACert = postgres.VerifyCA, newAuthority(t).cert },
			code: "PSYNC_S1104", kinds: []error{postgres.ErrConfig, postgres.ErrTLS}, says: "set cacert"},
		{name: "verify-full of another authority", change: func(c *postgres.Config) {
			c.TLS, c.CACert, c.ServerName = postgres.VerifyFull, newAuthority(t).cert, "db.example"
		}, code: "PSYNC_S1104", kinds: []error{postgres.ErrConfig, postgres.ErrTLS}, says: "set cacert"},
		{name: "cacert is no certificate", change: func(c *postgres.Config) { c.TLS, c.CACert = postgres.VerifyCA, []byte("x") },
			code: "PSYNC_S1104", kinds: []error{postgres.ErrConfig, postgres.ErrTLS}},
		{name: "server without TLS", change: func(c *postgres.Config) {
			c.Port, c.TLS, c.CACert = uint16(plain.Port()), postgres.VerifyFull, ca.cert
		}, code: "PSYNC_S1104", kinds: []error{postgres.ErrConfig, postgres.ErrTLS}, says: "ssl = on"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			config := good
			tc.change(&config)
			_, err := postgres.Check(t.Context(), config)
			if tc.code == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var e *postgres.Error
			if !errors.As(err, &e) || e.Code != tc.code || !strings.Contains(e.Error(), tc.says) {
				t.Fatalf("got %v, want %s %q", err, tc.code, tc.says)
			}
			for _, k := range tc.kinds {
				if !errors.Is(err, k) {
					t.Errorf("%v is not %v", err, k)
				}
			}
			if strings.Contains(err.Error(), "right") || strings.Contains(err.Error(), "wrong") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q shows the password or breaks the line", err.Error())
			}
		})
	}
}

func TestConnectStopsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	config := postgres.Config{Host: "127.0.0.1", Port: uint16(l.Addr().(*net.TCPAddr).Port), User: "u", Database: "d", TLS: postgres.DisableTLS}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := postgres.Connect(ctx, config); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	config.ConnectTimeout = 50 * time.Millisecond
	var e *postgres.Error
	if _, err := postgres.Connect(t.Context(), config); !errors.As(err, &e) || !errors.Is(err, postgres.ErrUnreachable) {
		t.Errorf("timed out: %v", err)
	}
}

func unusedPort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// authority signs certificates for tests.
type authority struct {
	parent *x509.Certificate
	key    *ecdsa.PrivateKey
	cert   []byte // PEM
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{parent: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	a.key, a.cert = a.sign(t, a.parent, nil)
	return a
}

func (a *authority) sign(t *testing.T, cert *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// issue returns a certificate for a host name, and its key.
func (a *authority) issue(t *testing.T, host string) (cert, key []byte) {
	t.Helper()
	k, cert := a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.key)
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}
