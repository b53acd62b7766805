package config

import (
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The codes of connection settings.
const (
	codeCA       = "PSYNC_S1104"
	codeDatabase = "PSYNC_S1105"
	codeHost     = "PSYNC_S1106"
	codeUser     = "PSYNC_S1107"
	codePassword = "PSYNC_S1108"
	codeURI      = "PSYNC_S1109"
	codePort     = "PSYNC_S1110"
)

var connectionKeys = []string{
	"type", "id", "tag", "uri", "hostname", "port", "username", "password", "database", "sslmode",
	"cacert", "client_certificate", "client_private_key", "tls_servername", "reject_ip_ranges",
	"slot_name_prefix", "max_pool_size", "connect_timeout", "snapshot_socket_timeout",
	"heartbeat_interval_seconds", "debug_api",
}

// LeastPool is how many connections to the source there are at least, besides the
// replication stream.
const LeastPool = 5

// uriParameters are those of a URI that have a function, or a warning of their own;
// uriIgnored others that clients of Postgres know.
var (
	uriParameters = []string{"host", "connect_timeout", "options", "sslmode", "sslrootcert"}
	uriIgnored    = []string{
		"application_name", "channel_binding", "client_encoding", "fallback_application_name", "gssencmode", "hostaddr",
		"keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts", "pgbouncer", "pool_timeout",
		"connection_limit", "require_auth", "schema", "sslcert", "sslcrl", "sslkey", "sslnegotiation", "statement_cache_size",
		"target_session_attrs", "tcp_user_timeout",
	}
)

// minPort is the least port a connection may name.
const minPort = 1024

// sourceConnection reads the connection to the source database.
func (r *reader) sourceConnection(n node) Connection {
	m := r.mapping(n, connectionKeys...)
	if !m.ok {
		return Connection{}
	}
	t := m.at["type"]
	if !t.present() {
		r.errorf(node{n.Node, n.path + ".type"}, "is missing").hint("write type: postgresql")
	} else if s := r.text(t); s != "" && s != "postgresql" {
		r.errorf(t, "only postgresql is supported as a source")
		return Connection{}
	}
	c := r.connection(m)
	c.ID, c.Tag = "default", "default"
	if id := r.text(m.at["id"]); id != "" {
		c.ID = id
	}
	if t := r.text(m.at["tag"]); t != "" {
		c.Tag = t
	}
	c.SlotPrefix = r.slotPrefix(m.at["slot_name_prefix"])
	c.SnapshotTimeout = r.seconds(m.at["snapshot_socket_timeout"], 30, 1, 24*3600)
	if n := m.at["max_pool_size"]; c.MaxPoolSize < LeastPool {
		r.warnf(n, "is too small, %d connections are used", LeastPool)
		c.MaxPoolSize = LeastPool
	}
	c.Heartbeat = r.seconds(m.at["heartbeat_interval_seconds"], 60, 5, 60)
	c.DebugAPI = r.truth(m.at["debug_api"], false)
	return c
}

func (r *reader) seconds(n node, def, lo, hi int) time.Duration {
	return time.Duration(r.integer(n, def, lo, hi)) * time.Second
}

// slotForm is what Postgres allows in the name of a slot.
var slotForm = regexp.MustCompile(`^[a-z0-9_]{1,40}$`)

func (r *reader) slotPrefix(n node) string {
	const def = "powersync_"
	s := r.text(n)
	if s == "" {
		return def
	}
	if !slotForm.MatchString(s) {
		r.errorf(n, "must be at most 40 lower-case letters, digits and underscores")
		return def
	}
	return s
}

// connection reads the keys that a source and a Postgres storage have in common.
func (r *reader) connection(m mapping) Connection {
	before := r.mistakes()
	c := Connection{ConnectTimeout: 20 * time.Second, Port: 5432}
	uri := m.at["uri"]
	uriRead := true
	if uri.present() {
		uriRead = r.uri(uri, &c)
	}
	for key, field := range map[string]*string{
		"hostname": &c.Host, "username": &c.User, "database": &c.Database, "tls_servername": &c.ServerName,
	} {
		if s := r.text(m.at[key]); s != "" {
			*field = s
		}
	}
	if s := r.secret(m.at["password"]); s != "" {
		c.Password = s
	}
	// A certificate is no secret, but a private key may have been put in its place.
	c.CACert = string(r.secret(m.at["cacert"]))
	c.ClientCert = string(r.secret(m.at["client_certificate"]))
	c.ClientKey = r.secret(m.at["client_private_key"])
	c.Port = r.connectionPort(m.at["port"], c.Port)
	c.MaxPoolSize = r.integer(m.at["max_pool_size"], 8, 1, 1000)
	c.ConnectTimeout = r.seconds(m.at["connect_timeout"], int(c.ConnectTimeout/time.Second), 1, 3600)
	c.RejectIPRanges = r.ipRanges(m.at["reject_ip_ranges"])
	if uriRead && r.mistakes() == before { // else a part may be missing because it is wrong
		r.requireParts(m, &c)
	}
	r.protection(m, &c)
	return c
}

// requireParts reports the parts that neither the URI nor a key gives.
func (r *reader) requireParts(m mapping, c *Connection) {
	place := m.node
	if u := m.at["uri"]; u.present() {
		place = u
	}
	need := func(key, what, value, code string) {
		if value != "" {
			return
		}
		r.errorf(node{place.Node, m.path + "." + key}, "the %s is missing", what).code(code).
			hint("write %s:, or put it into uri: postgresql://username:password@hostname:5432/database", key)
	}
	need("hostname", "host", c.Host, codeHost)
	need("username", "user", c.User, codeUser)
	need("database", "database", c.Database, codeDatabase)
	if !strings.HasPrefix(c.Host, "/") {
		need("password", "password", string(c.Password), codePassword)
	}
}

func (r *reader) connectionPort(n node, def int) int {
	before := len(r.problems)
	port := r.port(n, def, minPort)
	for _, p := range r.problems[before:] {
		p.code(codePort)
	}
	return port
}

// uri reads a connection URI into c. It reports whether the URI is usable. No error
// of net/url is shown: they repeat the URI, password and all.
func (r *reader) uri(n node, c *Connection) bool {
	before := len(r.problems)
	text := string(r.secret(n))
	if len(r.problems) > before {
		return false
	}
	const form = "write postgresql://username:password@hostname:5432/database, " +
		"with %%40 for @, %%3A for :, %%2F for / and %%23 for # within the username and password"
	u, err := url.Parse(text)
	if err != nil {
		r.errorf(n, "is not a URI").code(codeURI).hint(form)
		return false
	}
	if u.Scheme != "postgresql" && u.Scheme != "postgres" || u.Opaque != "" {
		r.errorf(n, "must begin with postgresql://").code(codeURI).hint(form)
		return false
	}
	if u.Fragment != "" {
		r.errorf(n, "must not hold a #").code(codeURI).hint(form)
		return false
	}
	c.Host, c.Database = u.Hostname(), strings.TrimPrefix(u.Path, "/")
	if u.User != nil {
		c.User = u.User.Username()
		password, _ := u.User.Password()
		c.Password = Secret(password)
	}
	if p := u.Port(); p != "" {
		port, err := strconv.Atoi(p)
		if err != nil || port < minPort || port > 65535 {
			r.errorf(n, "the port in it must be from %d to 65535", minPort).code(codePort)
			return false
		}
		c.Port = port
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		r.errorf(n, "the part after ? is malformed").code(codeURI).hint(form)
		return false
	}
	if h := query.Get("host"); c.Host == "" && strings.HasPrefix(h, "/") {
		c.Host = h
	}
	if t := query.Get("connect_timeout"); t != "" {
		s, err := strconv.Atoi(t)
		if err != nil || s < 1 || s > 3600 {
			r.errorf(n, "connect_timeout in it must be a number of seconds from 1 to 3600").code(codeURI)
			return false
		}
		c.ConnectTimeout = time.Duration(s) * time.Second
	}
	c.Options = query.Get("options")
	if query.Has("sslmode") || query.Has("sslrootcert") {
		r.warnf(n, "SSL settings in a URI are ignored").hint("write the keys sslmode and cacert beside it")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		// Only what is known is repeated: anything may stand where a name should.
		if slices.Contains(uriIgnored, name) {
			r.warnf(n, "%s in a URI is ignored", name)
		} else if !slices.Contains(uriParameters, name) {
			r.warnf(n, "a parameter in it is not known and ignored").hint("known are connect_timeout, options and, for the folder of a socket, host")
		}
	}
	return true
}

// protection reads sslmode and the certificates.
func (r *reader) protection(m mapping, c *Connection) {
	modes := []string{string(VerifyFull), string(VerifyCA), string(DisableSSL)}
	n := m.at["sslmode"]
	before := len(r.problems)
	c.SSLMode = SSLMode(r.word(n, string(VerifyFull), modes...))
	if len(r.problems) > before && n.Tag != "!env" {
		switch n.Value {
		case "require", "prefer", "allow", "no-verify":
			r.problems[before].hint("%s does not check whom it talks to: write verify-full, or verify-ca with cacert, "+
				"or on a private network disable", n.Value)
		}
	}
	if c.SSLMode == VerifyCA && !m.at["cacert"].present() {
		r.errorf(n, "verify-ca needs cacert").code(codeCA).hint("write the authority's certificate as PEM below cacert: |")
	}
	if c.CACert != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(c.CACert)) {
		r.errorf(m.at["cacert"], "holds no certificate").code(codeCA).
			hint("write it as PEM, from -----BEGIN CERTIFICATE----- on")
	}
	cert, key := m.at["client_certificate"], m.at["client_private_key"]
	switch {
	case cert.present() && !key.present():
		r.errorf(cert, "needs client_private_key")
	case key.present() && !cert.present():
		r.errorf(key, "needs client_certificate")
	case c.ClientCert != "" && c.ClientKey != "":
		if _, err := tls.X509KeyPair([]byte(c.ClientCert), []byte(c.ClientKey)); err != nil {
			r.errorf(cert, "is not the certificate of client_private_key").hint("write both as PEM")
		}
	}
}

// ipRanges reads a list of address ranges, in which the word local stands for every
// address that is not public.
func (r *reader) ipRanges(n node) IPRanges {
	var out IPRanges
	for _, item := range r.oneOrMore(n) {
		s := r.text(item)
		if s == "" {
			continue
		}
		if s == "local" {
			out.Local = true
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			r.errorf(item, "must be local or a range of addresses").hint("write a range as 10.0.0.0/8 or fc00::/7")
			continue
		}
		out.Prefixes = append(out.Prefixes, p.Masked())
	}
	return out
}
