package config

import "strings"

var storageKeys = []string{
	"type", "path", "schema", "uri", "hostname", "port", "username", "password", "database", "sslmode",
	"cacert", "client_certificate", "client_private_key", "tls_servername", "reject_ip_ranges",
	"max_pool_size", "connect_timeout", "default_storage_version", "batch_limits",
}

// The defaults of storage: the folder of a Pebble store, relative to the working
// directory, and the schema of one in Postgres.
const (
	defaultDataDir = "millrace-data"
	defaultSchema  = "millrace"
)

// storage reads where data is kept.
func (r *reader) storage(n node) Storage {
	s := Storage{Type: Pebble, Path: defaultDataDir}
	if !n.present() {
		return s
	}
	m := r.mapping(n, storageKeys...)
	if !m.ok {
		return s
	}
	t := m.at["type"]
	if !t.present() {
		r.errorf(node{n.Node, n.path + ".type"}, "is missing").hint("write type: pebble, or type: postgresql")
		return s
	}
	switch kind := r.text(t); kind {
	case "":
	case string(Pebble):
		for _, key := range storageKeys {
			if v := m.at[key]; v.present() && key != "type" && key != "path" {
				r.warnf(v, "means nothing to storage of type pebble, ignored")
			}
		}
		if p := r.text(m.at["path"]); p != "" {
			s.Path = p
		}
	case string(PostgreSQL):
		return r.storageInPostgres(m)
	case "mongodb":
		r.errorf(t, "storage in MongoDB is not supported").hint("the types are pebble and postgresql")
	case "memory":
		r.errorf(t, "there is no storage in memory").hint("write pebble: it keeps data in a folder, which may lie on a tmpfs")
	default:
		r.errorf(t, "must be pebble or postgresql")
	}
	return s
}

// storageInPostgres reads the keys of a store in Postgres.
func (r *reader) storageInPostgres(m mapping) Storage {
	if v := m.at["path"]; v.present() {
		r.warnf(v, "means nothing to storage of type postgresql, ignored")
	}
	c := r.connection(m)
	r.integer(m.at["default_storage_version"], 2, 1, 3)
	r.inert(m.at["default_storage_version"])
	r.inert(m.at["batch_limits"])
	limits := r.mapping(m.at["batch_limits"], "max_estimated_size", "max_record_count", "max_current_data_batch_size")
	for _, v := range limits.at {
		r.integer(v, 0, 1, 1<<40)
	}
	return Storage{Type: PostgreSQL, Connection: &c, Schema: r.schema(m.at["schema"])}
}

// schema reads the name of the schema that a store has to itself.
func (r *reader) schema(n node) string {
	s := r.text(n)
	switch {
	case s == "":
		if n.present() && n.Tag == "!!str" {
			r.errorf(n, "must not be empty")
		}
		return defaultSchema
	case s == "powersync":
		r.errorf(n, "is the schema of the PowerSync Service's storage, which is left alone").hint("write another name, or leave schema out")
	case s == "public", s == "information_schema", strings.HasPrefix(s, "pg_"):
		r.errorf(n, "must be a schema that holds nothing else").hint("write another name, or leave schema out")
	case len(s) > 63 || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == '"' }):
		r.errorf(n, "must be the name of a schema, of at most 63 bytes")
	}
	return s
}
