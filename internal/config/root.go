package config

import (
	"log/slog"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/millrace-sync/millrace/internal/streams"
)

// allKeys holds the configuration's keys; it tells which words of a line that does
// not parse may be shown.
var allKeys = keySet(rootKeys, connectionKeys, storageKeys, authKeys, jwkKeys, limitKeys, []string{
	"connections", "path", "content", "exit_on_error", "keys", "tokens",
	"disable_auto_migration", "prometheus_port", "disable_telemetry_sharing", "internal_service_endpoint",
	"probes", "use_filesystem", "use_http", "use_legacy", "logging", "level", "format",
})

func keySet(lists ...[]string) map[string]bool {
	set := map[string]bool{}
	for _, l := range lists {
		for _, k := range l {
			set[k] = true
		}
	}
	return set
}

var rootKeys = []string{
	"replication", "storage", "port", "sync_config", "sync_rules", "client_auth", "api",
	"migrations", "telemetry", "healthcheck", "system", "metadata", "parameters", "_type",
}

var limitKeys = []string{
	"max_concurrent_connections", "max_data_fetch_concurrency", "max_buckets_per_connection",
	"max_parameter_query_results", "checkpoint_request_retention_minutes", "bucket_count_cache_ttl_minutes",
}

// config reads the whole document. dir is what paths in it are relative to.
func (r *reader) config(n node, in Input, dir string) *Config {
	m := r.mapping(n, rootKeys...)
	r.word(m.at["_type"], "self-hosted", "self-hosted")
	c := &Config{
		File:       r.doc.file,
		Connection: r.replication(m),
		Storage:    r.storage(m.at["storage"]),
		Port:       r.port(m.at["port"], 8080, 0),
		Sync:       r.sync(m, in, dir),
		API:        r.api(m.at["api"]),
		Telemetry:  r.telemetry(m.at["telemetry"]),
		Probes:     r.probes(m.at["healthcheck"]),
		Logging:    r.logging(m.at["system"], in),
	}
	c.ClientAuth = r.clientAuth(m, c.Connection.Host)
	migrations := r.mapping(m.at["migrations"], "disable_auto_migration")
	disabled := migrations.at["disable_auto_migration"]
	c.Storage.NoMigrate = r.truth(disabled, false)
	if c.Storage.NoMigrate && c.Storage.Type == Pebble {
		r.warnf(disabled, "means nothing to storage of type pebble, ignored")
		c.Storage.NoMigrate = false
	}
	for _, key := range []string{"metadata", "parameters"} {
		if v := m.at[key]; v.present() {
			r.any(v)
			r.inert(v)
		}
	}
	return c
}

// replication reads replication.connections, which holds one connection.
func (r *reader) replication(root mapping) Connection {
	n := root.at["replication"]
	if !n.present() {
		if root.ok {
			r.errorf(node{path: "replication"}, "is missing").
				hint("write replication.connections with one connection of type postgresql")
		}
		return Connection{}
	}
	m := r.mapping(n, "connections")
	list := m.at["connections"]
	if !list.present() {
		if m.ok {
			r.errorf(node{n.Node, "replication.connections"}, "is missing").hint("write a list of one connection")
		}
		return Connection{}
	}
	items, ok := r.list(list)
	if len(items) == 0 {
		if ok {
			r.errorf(list, "must hold one connection")
		}
		return Connection{}
	}
	for _, extra := range items[1:] {
		r.errorf(extra, "there may be only one connection")
	}
	return r.sourceConnection(items[0])
}

// sync reads the sync config: from the flag or variable, else from sync_config or,
// by its old name, sync_rules. There may be none.
func (r *reader) sync(root mapping, in Input, dir string) Sync {
	n, old := root.at["sync_config"], root.at["sync_rules"]
	switch {
	case n.present() && old.present():
		r.errorf(old, "sync_rules is the old name of sync_config: only one of the two may be there").hint("remove one")
	case old.present():
		n = old
	}
	s := Sync{ExitOnError: true}
	m := r.mapping(n, "path", "content", "exit_on_error")
	s.ExitOnError = r.truth(m.at["exit_on_error"], true)
	path, content := m.at["path"], m.at["content"]

	if src, ok := r.syncBase64(in); ok {
		if path.present() || content.present() {
			r.warnf(n, "is overridden by %s", src.File)
		}
		s.Source = src
		return s
	}
	switch {
	case path.present() && content.present():
		r.errorf(content, "only one of path and content may be there").hint("remove one")
	case content.present():
		s.Source = r.syncContent(content)
	case path.present():
		s.Source = r.syncFile(path, dir)
	}
	return s
}

// syncBase64 reads the sync config from the flag or the variables.
func (r *reader) syncBase64(in Input) (streams.Source, bool) {
	src := streams.Source{File: "--sync-base64"}
	text := in.SyncBase64
	for _, name := range []string{envSyncBase64, envSyncOld} {
		if text == "" {
			src.File, text = name, in.env(name)
		}
	}
	if text == "" {
		return streams.Source{}, false
	}
	b, err := decodeBase64(text)
	switch {
	case err != nil:
		r.problems = append(r.problems, &Problem{Severity: streams.Error, File: src.File, Message: err.Error(),
			Hint: "encode the whole file, as with: base64 -w0 sync-config.yaml"})
	case !utf8.Valid(b):
		r.problems = append(r.problems, &Problem{Severity: streams.Error, File: src.File, Message: "holds text that is not UTF-8"})
	}
	src.Text = string(trimBOM(b))
	return src, true
}

func (r *reader) syncContent(n node) streams.Source {
	s, ok := r.scalar(n, "text")
	if !ok {
		if n.Kind != yaml.ScalarNode { // the | has been forgotten
			r.problems[len(r.problems)-1].hint("write content: | and indent the sync config below it")
		}
		return streams.Source{}
	}
	if s.kind != textKind || strings.TrimSpace(s.text) == "" {
		r.errorf(n, "must be the text of a sync config").hint("write content: | and indent the sync config below it")
		return streams.Source{}
	}
	return r.doc.source(n, s.text)
}

func (r *reader) syncFile(n node, dir string) streams.Source {
	path := r.text(n)
	if path == "" {
		if n.Tag == "!!str" {
			r.errorf(n, "must be the path of a file")
		}
		return streams.Source{}
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	src, err := SyncFile(path)
	if err != nil {
		r.errorf(n, "%s %v", path, err).hint("the path is relative to the directory of the configuration file")
	}
	return src
}

func (r *reader) api(n node) API {
	m := r.mapping(n, "tokens", "parameters")
	var a API
	items, _ := r.list(m.at["tokens"])
	for _, item := range items {
		before := len(r.problems)
		t := r.secret(item)
		switch {
		case t != "":
			a.Tokens = append(a.Tokens, t)
		case len(r.problems) == before:
			r.errorf(item, "must not be empty")
		}
	}
	p := r.mapping(m.at["parameters"], limitKeys...)
	const most = 1 << 30
	minutes := func(key string) time.Duration {
		return time.Duration(r.integer(p.at[key], 60, 1, 366*24*60)) * time.Minute
	}
	a.Limits = Limits{
		Connections:                r.integer(p.at["max_concurrent_connections"], 0, 1, most),
		DataFetches:                r.integer(p.at["max_data_fetch_concurrency"], 0, 1, most),
		BucketsPerConnection:       r.integer(p.at["max_buckets_per_connection"], 0, 1, most),
		ParameterQueryResults:      r.integer(p.at["max_parameter_query_results"], 0, 1, most),
		CheckpointRequestRetention: minutes("checkpoint_request_retention_minutes"),
	}
	minutes("bucket_count_cache_ttl_minutes")
	r.inert(p.at["bucket_count_cache_ttl_minutes"])
	return a
}

func (r *reader) telemetry(n node) Telemetry {
	m := r.mapping(n, "prometheus_port", "disable_telemetry_sharing", "internal_service_endpoint")
	r.truth(m.at["disable_telemetry_sharing"], false)
	r.text(m.at["internal_service_endpoint"])
	r.inert(m.at["internal_service_endpoint"]) // nothing is ever sent
	return Telemetry{PrometheusPort: r.port(m.at["prometheus_port"], 0, 1)}
}

// probes reads healthcheck.probes. Probes are shown over HTTP and as files unless the
// section says which are wanted.
func (r *reader) probes(n node) Probes {
	m := r.mapping(r.mapping(n, "probes").at["probes"], "use_filesystem", "use_http", "use_legacy")
	if !m.ok {
		return Probes{HTTP: true, Filesystem: true}
	}
	legacy := r.truth(m.at["use_legacy"], false)
	return Probes{
		HTTP:       r.truth(m.at["use_http"], false) || legacy,
		Filesystem: r.truth(m.at["use_filesystem"], false) || legacy,
	}
}

// logLevels maps the levels of the PowerSync Service to those of slog.
var logLevels = map[string]slog.Level{
	"error": slog.LevelError, "warn": slog.LevelWarn, "info": slog.LevelInfo, "http": slog.LevelInfo,
	"verbose": slog.LevelDebug, "debug": slog.LevelDebug, "silly": slog.LevelDebug,
}

// logging reads system.logging. PS_LOG_LEVEL and PS_LOG_FORMAT, if set, win over the
// file; NODE_ENV decides the format if nothing else does.
func (r *reader) logging(n node, in Input) Logging {
	m := r.mapping(r.mapping(n, "logging").at["logging"], "level", "format")
	format := "text"
	if in.env("NODE_ENV") == "production" {
		format = "json"
	}
	level := r.word(m.at["level"], "info", "error", "warn", "info", "http", "verbose", "debug", "silly")
	format = r.word(m.at["format"], format, "json", "text")
	if v := in.env("PS_LOG_LEVEL"); v != "" {
		if _, ok := logLevels[v]; ok {
			level = v
		} else {
			r.envProblem("PS_LOG_LEVEL", "must be one of error, warn, info, http, verbose, debug, silly")
		}
	}
	if v := in.env("PS_LOG_FORMAT"); v != "" {
		if v == "json" || v == "text" {
			format = v
		} else {
			r.envProblem("PS_LOG_FORMAT", "must be json or text")
		}
	}
	return Logging{Level: logLevels[level], JSON: format == "json"}
}

func (r *reader) envProblem(name, message string) {
	r.problems = append(r.problems, &Problem{Severity: streams.Error, File: name, Message: message})
}
