package streams

import (
	"fmt"

	"go.yaml.in/yaml/v4"

	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/streams/expr"
)

// settings is the config section, with the defaults of its edition.
type settings struct {
	edition int
	form    source.Form
	options expr.Options
}

// config is a sync config as read from YAML: names and texts, no SQL parsed.
type config struct {
	settings
	with    []namedQuery
	streams []streamConfig
	buckets []bucketConfig
	events  []eventConfig
}

type namedQuery struct{ name, query *yaml.Node }

type streamConfig struct {
	name          *yaml.Node
	queries       []*yaml.Node
	with          []namedQuery
	autoSubscribe bool
	priority      int
	dangerous     bool // accept_potentially_dangerous_queries
}

type bucketConfig struct {
	name       *yaml.Node
	parameters []*yaml.Node
	data       []*yaml.Node
	priority   int
	dangerous  bool
}

type eventConfig struct {
	name     *yaml.Node
	payloads []*yaml.Node
}

const defaultPriority = 3

// readConfig reads the whole document; ok is false if it is not even a mapping.
func (d *document) readConfig() (c *config, ok bool) {
	top := d.parse()
	if top == nil {
		return nil, false
	}
	c = &config{}
	var section, with, streams, buckets, events *yaml.Node
	keep := func(to **yaml.Node) func(key, value *yaml.Node) {
		return func(_, value *yaml.Node) { *to = value }
	}
	var streamsKey, bucketsKey, withKey *yaml.Node
	d.fields(top, "", "the sync config", []field{
		{"config", keep(&section)},
		{"streams", func(k, v *yaml.Node) { streamsKey, streams = k, v }},
		{"with", func(k, v *yaml.Node) { withKey, with = k, v }},
		{"bucket_definitions", func(k, v *yaml.Node) { bucketsKey, buckets = k, v }},
		{"event_definitions", keep(&events)},
	})
	c.settings = d.readSettings(section)
	if streams != nil && c.edition == 1 {
		d.reportNode(Error, streamsKey, "", "streams need edition 3, and this config has edition 1 (the default)", "put this at the top:\nconfig:\n  edition: 3")
	}
	if buckets != nil && c.edition == 3 {
		d.reportNode(Error, bucketsKey, "", "edition 3 has no bucket_definitions", "declare streams instead, or set edition: 2")
	}
	if with != nil && c.edition != 3 {
		d.reportNode(Error, withKey, "", "with needs edition 3", "set edition: 3")
	}
	if streams == nil && buckets == nil {
		d.reportNode(Error, top, "", "the sync config declares no streams", "add streams: with at least one")
	}
	if with != nil {
		c.with = d.readWith(with, "")
	}
	if streams != nil {
		d.entries(streams, "", "streams", func(k, v *yaml.Node) { c.streams = append(c.streams, d.readStream(c, k, v)) })
	}
	if buckets != nil {
		d.entries(buckets, "", "bucket_definitions", func(k, v *yaml.Node) { c.buckets = append(c.buckets, d.readBucket(k, v)) })
	}
	if events != nil {
		d.entries(events, "", "event_definitions", func(k, v *yaml.Node) {
			e := eventConfig{name: k}
			d.fields(v, k.Value, "the event definition "+k.Value, []field{
				{"payloads", func(_, v *yaml.Node) { e.payloads = d.texts(v, k.Value, "payloads") }},
			})
			c.events = append(c.events, e)
		})
	}
	return c, true
}

func (d *document) readSettings(section *yaml.Node) settings {
	s := settings{edition: 1}
	var iso, custom, fixed, versioned, sqlite *yaml.Node
	var precision *yaml.Node
	keep := func(to **yaml.Node) func(key, value *yaml.Node) {
		return func(_, value *yaml.Node) { *to = value }
	}
	if section != nil {
		version := 0
		d.fields(section, "", "config", []field{
			{"edition", func(_, v *yaml.Node) { d.integer(v, "", "edition", 1, 3, &s.edition) }},
			{"storage_version", func(_, v *yaml.Node) { d.integer(v, "", "storage_version", 1, 3, &version) }},
			{"timestamps_iso8601", keep(&iso)},
			{"versioned_bucket_ids", keep(&versioned)},
			{"fixed_json_extract", keep(&fixed)},
			{"custom_postgres_types", keep(&custom)},
			{"timestamp_max_precision", keep(&precision)},
			{"unstable_sqlite_expression_engine", keep(&sqlite)},
		})
	}
	modern := s.edition >= 2
	s.form = source.Form{ISOTimestamps: modern, CustomTypes: modern}
	s.options = expr.Options{FixedJSONExtract: modern, Legacy: s.edition < 3}
	read := func(n *yaml.Node, name string, to *bool) {
		if n != nil {
			d.boolean(n, "", name, to)
		}
	}
	var engine, names bool
	read(iso, "timestamps_iso8601", &s.form.ISOTimestamps)
	read(custom, "custom_postgres_types", &s.form.CustomTypes)
	read(fixed, "fixed_json_extract", &s.options.FixedJSONExtract)
	read(versioned, "versioned_bucket_ids", &names)
	read(sqlite, "unstable_sqlite_expression_engine", &engine)
	if engine {
		s.options.Engine = expr.SQLite
		if s.edition != 3 || !s.options.FixedJSONExtract {
			d.reportNode(Error, sqlite, "", "unstable_sqlite_expression_engine needs edition 3 and fixed_json_extract", "set edition: 3 and leave fixed_json_extract at its default")
		}
	}
	if precision != nil {
		s.form.Precision = d.readPrecision(precision)
		if !s.form.ISOTimestamps {
			d.reportNode(Error, precision, "", "timestamp_max_precision needs timestamps_iso8601", "set timestamps_iso8601: true")
		}
	}
	return s
}

func (d *document) readPrecision(n *yaml.Node) source.Precision {
	names := []string{"seconds", "milliseconds", "microseconds", "nanoseconds"}
	for i, name := range names {
		if n.Value == name {
			return source.PrecisionSeconds + source.Precision(i)
		}
	}
	hint := didYouMean(n.Value, names)
	d.reportNode(Error, n, "", "timestamp_max_precision must be seconds, milliseconds, microseconds or nanoseconds", hint)
	return source.PrecisionSource
}

func (d *document) readWith(n *yaml.Node, stream string) []namedQuery {
	var out []namedQuery
	d.entries(n, stream, "with", func(k, v *yaml.Node) {
		if _, ok := d.str(v, stream, fmt.Sprintf("the query %s of with", k.Value)); ok {
			out = append(out, namedQuery{k, v})
		}
	})
	return out
}

func (d *document) readStream(c *config, name, n *yaml.Node) streamConfig {
	s := streamConfig{name: name, priority: defaultPriority}
	what := "the stream " + name.Value
	if n.Kind == yaml.ScalarNode {
		d.reportNode(Error, n, name.Value, what+" must be a mapping with the key query", fmt.Sprintf("%s:\n  query: SELECT …", name.Value))
		return s
	}
	var query, queries, queriesKey *yaml.Node
	known := []field{
		{"query", func(_, v *yaml.Node) { query = v }},
		{"auto_subscribe", func(_, v *yaml.Node) { d.boolean(v, name.Value, "auto_subscribe", &s.autoSubscribe) }},
		{"priority", func(_, v *yaml.Node) { d.integer(v, name.Value, "priority", 0, 3, &s.priority) }},
		{"accept_potentially_dangerous_queries", func(_, v *yaml.Node) {
			d.boolean(v, name.Value, "accept_potentially_dangerous_queries", &s.dangerous)
		}},
	}
	if c.edition >= 3 {
		known = append(known,
			field{"queries", func(k, v *yaml.Node) { queriesKey, queries = k, v }},
			field{"with", func(_, v *yaml.Node) { s.with = d.readWith(v, name.Value) }})
	}
	before := len(d.diags)
	d.fields(n, name.Value, what, known)
	if c.edition == 2 {
		s.priority = defaultPriority // parsed and, as in the reference, never applied
	}
	switch {
	case query != nil && queries != nil:
		d.reportNode(Error, queriesKey, name.Value, what+" has both query and queries", "put all of them under queries")
	case query != nil:
		if _, ok := d.str(query, name.Value, "query"); ok {
			s.queries = []*yaml.Node{query}
		}
	case queries != nil:
		s.queries = d.texts(queries, name.Value, "queries")
	case len(d.diags) == before:
		d.reportNode(Error, name, name.Value, what+" has no query", fmt.Sprintf("%s:\n  query: SELECT …", name.Value))
	}
	return s
}

// texts reads one text or a list of texts.
func (d *document) texts(n *yaml.Node, stream, what string) []*yaml.Node {
	n = resolve(n)
	if n.Kind != yaml.SequenceNode {
		if _, ok := d.str(n, stream, what); ok {
			return []*yaml.Node{n}
		}
		return nil
	}
	if len(n.Content) == 0 {
		d.reportNode(Error, n, stream, what+" is empty", "list at least one query")
	}
	var out []*yaml.Node
	for _, item := range n.Content {
		item = resolve(item)
		if _, ok := d.str(item, stream, "each of "+what); ok {
			out = append(out, item)
		}
	}
	return out
}

func (d *document) readBucket(name, n *yaml.Node) bucketConfig {
	b := bucketConfig{name: name, priority: defaultPriority}
	what := "the bucket definition " + name.Value
	if n.Kind == yaml.ScalarNode {
		d.reportNode(Error, n, name.Value, what+" must be a mapping with the key data", fmt.Sprintf("%s:\n  data:\n    - SELECT …", name.Value))
		return b
	}
	data := false
	before := len(d.diags)
	d.fields(n, name.Value, what, []field{
		{"parameters", func(_, v *yaml.Node) { b.parameters = d.texts(v, name.Value, "parameters") }},
		{"data", func(_, v *yaml.Node) { data, b.data = true, d.texts(v, name.Value, "data") }},
		{"priority", func(_, v *yaml.Node) { d.integer(v, name.Value, "priority", 0, 3, &b.priority) }},
		{"accept_potentially_dangerous_queries", func(_, v *yaml.Node) {
			d.boolean(v, name.Value, "accept_potentially_dangerous_queries", &b.dangerous)
		}},
	})
	if !data && len(d.diags) == before {
		d.reportNode(Error, name, name.Value, what+" has no data queries", fmt.Sprintf("%s:\n  data:\n    - SELECT …", name.Value))
	}
	return b
}
