// Package admin is what operators' tools and a running service say to each other: the
// bodies of the admin API, and a client of it for the commands of millrace.
//
// Package httpapi has the routes, package server answers. The routes under
// /api/admin/v1 and /api/sync-rules/v1 have the forms that tools of the PowerSync
// Service know, with members added; those under /api/millrace/v1 are this service's.
package admin

import (
	"encoding/json"
	"time"
)

// Diagnostics is the state of replication, as POST /api/admin/v1/diagnostics tells it.
type Diagnostics struct {
	Connections []Connection `json:"connections"`
	// Active is the sync config that clients are served by, Deploying the one on its
	// way to replace it.
	Active    *SyncConfig `json:"active_sync_rules,omitempty"`
	Deploying *SyncConfig `json:"deploying_sync_rules,omitempty"`
	// Failed is the last that was refused or given up, if none went well since.
	Failed *SyncConfig `json:"failed_sync_rules,omitempty"`
}

// Connection is the way to the source database.
type Connection struct {
	ID          string    `json:"id"`
	PostgresURI string    `json:"postgres_uri"` // without the password
	Connected   bool      `json:"connected"`
	Errors      []Problem `json:"errors"`
}

// SyncConfig is one sync config and how its replication is doing.
type SyncConfig struct {
	Content     string             `json:"content,omitempty"` // if asked for
	Connections []ReplicationState `json:"connections"`
	Errors      []Problem          `json:"errors"`
}

// ReplicationState is how far replication has come.
type ReplicationState struct {
	ID                     string     `json:"id"`
	Tag                    string     `json:"tag"`
	SlotName               string     `json:"slot_name"`
	InitialReplicationDone bool       `json:"initial_replication_done"`
	LastLSN                string     `json:"last_lsn,omitempty"`
	LastKeepalive          *time.Time `json:"last_keepalive_ts,omitempty"`
	LastCheckpoint         *time.Time `json:"last_checkpoint_ts,omitempty"`
	// LagBytes is the log that the source has written and keeps for the slot.
	LagBytes  *int64  `json:"replication_lag_bytes,omitempty"`
	WALStatus string  `json:"wal_status,omitempty"`
	SafeWAL   *int64  `json:"safe_wal_size,omitempty"`
	MaxWAL    *int64  `json:"max_slot_wal_keep_size,omitempty"`
	Tables    []Table `json:"tables"`
}

// Table is a table that a sync config reads, or a pattern or name that fits none.
type Table struct {
	Schema           string    `json:"schema"`
	Name             string    `json:"name"`
	Pattern          string    `json:"pattern,omitempty"`
	ReplicationID    []string  `json:"replication_id"` // the columns that tell rows apart
	DataQueries      bool      `json:"data_queries"`
	ParameterQueries bool      `json:"parameter_queries"`
	Errors           []Problem `json:"errors"`
}

// The levels of a Problem.
const (
	Warning = "warning"
	Fatal   = "fatal"
)

// Problem is something that an operator should know.
type Problem struct {
	Level    string     `json:"level"`
	Message  string     `json:"message"`
	Location *Location  `json:"location,omitempty"`
	Time     *time.Time `json:"ts,omitempty"`
}

// Location is a place in a sync config, in bytes.
type Location struct {
	Start int `json:"start_offset"`
	End   int `json:"end_offset"`
}

// Schema is what POST /api/admin/v1/schema tells of the source database.
type Schema struct {
	Connections          []SchemaConnection `json:"connections"`
	DefaultConnectionTag string             `json:"defaultConnectionTag"`
	DefaultSchema        string             `json:"defaultSchema"`
}

// SchemaConnection holds the schemas of one connection.
type SchemaConnection struct {
	ID      string            `json:"id"`
	Tag     string            `json:"tag"`
	Schemas []SchemaNamespace `json:"schemas"`
}

// SchemaNamespace holds the tables of one schema.
type SchemaNamespace struct {
	Name   string        `json:"name"`
	Tables []SchemaTable `json:"tables"`
}

// SchemaTable holds the columns of one table.
type SchemaTable struct {
	Name    string         `json:"name"`
	Columns []SchemaColumn `json:"columns"`
}

// SchemaColumn is one column, with what clients get of it.
type SchemaColumn struct {
	Name string `json:"name"`
	// SQLiteType is a set of bits: 1 blob, 2 text, 4 integer, 8 real.
	SQLiteType   int    `json:"sqlite_type"`
	InternalType string `json:"internal_type"`
	Type         string `json:"type"`
	PgType       string `json:"pg_type"`
}

// SQLRequest is a statement for the source database.
type SQLRequest struct {
	ConnectionID string `json:"connection_id,omitempty"`
	SQL          struct {
		Query string            `json:"query"`
		Args  []json.RawMessage `json:"args"`
	} `json:"sql"`
}

// SQLResult is what came of it.
type SQLResult struct {
	Success bool      `json:"success"`
	Results SQLRows   `json:"results"`
	Error   *SQLError `json:"error,omitempty"`
}

// SQLRows holds values as clients would get them.
type SQLRows struct {
	Columns []string `json:"columns"`
	Rows    [][]any  `json:"rows"`
}

// SQLError is why a statement failed.
type SQLError struct {
	Message string `json:"message"`
}

// Slot names the replication slot that a sync config is replicated by.
type Slot struct {
	SlotName string `json:"slot_name"`
}

// Reprocessed is the answer of POST /api/admin/v1/reprocess.
type Reprocessed struct {
	Connections []SlotConnection `json:"connections"`
}

// SlotConnection is a connection and its slot.
type SlotConnection struct {
	ID  string `json:"id,omitempty"`
	Tag string `json:"tag"`
	Slot
}

// Checked is what POST /api/sync-rules/v1/validate tells of a sync config.
type Checked struct {
	Valid   bool             `json:"valid"`
	Streams []CheckedStream  `json:"bucket_definitions,omitempty"`
	Sources []string         `json:"source_tables,omitempty"`
	Tables  map[string][]any `json:"data_tables,omitempty"`
	Errors  []string         `json:"errors,omitempty"`
}

// CheckedStream is a stream or bucket definition of a Checked.
type CheckedStream struct {
	Name          string `json:"name"`
	AutoSubscribe bool   `json:"auto_subscribe"`
	Priority      int    `json:"priority"`
}

// Current is the answer of GET /api/sync-rules/v1/current.
type Current struct {
	Current *Deployed `json:"current"`
	Next    *Deployed `json:"next"`
}

// Deployed is a sync config that is served or on its way to be.
type Deployed struct {
	Slot
	Content string `json:"content"`
	Checked
}

// Status is how a deploy is getting on, as GET /api/millrace/v1/status tells it.
type Status struct {
	// Deploying says that the wanted sync config is not current yet; Waits is what it
	// waits for besides its backfill.
	Deploying bool     `json:"deploying"`
	Waits     []string `json:"waits_for,omitempty"`
	// Failed is why the last sync config was refused or given up, if none went well
	// since.
	Failed string `json:"failed,omitempty"`
	// Supplied names where the configuration has its sync config; empty if it has none.
	Supplied   string `json:"sync_config_from,omitempty"`
	Checkpoint string `json:"checkpoint"`
	Ready      bool   `json:"ready"`
	Reason     string `json:"reason,omitempty"` // if not ready
	// Backfill is how far tables have been read that are being read.
	Backfill []TableProgress `json:"backfill,omitempty"`
}

// TableProgress is how far the reading of a table has come.
type TableProgress struct {
	Table string `json:"table"`
	// Rows are stored. OfAbout is how many there are, by estimate; 0 if that is not
	// known, or has turned out too small, and then nothing is said of the rest.
	Rows    int64 `json:"rows"`
	OfAbout int64 `json:"of_about,omitempty"`
	Percent int   `json:"percent,omitempty"`
	// RowsPerSecond is the rate since the reading began, and SecondsLeft what the rest
	// takes at that rate.
	RowsPerSecond int `json:"rows_per_second,omitempty"`
	SecondsLeft   int `json:"seconds_left,omitempty"`
}

// DryRun is what a deploy would do, as POST /api/millrace/v1/dry-run tells it.
type DryRun struct {
	// Unchanged says that the sync config is what is served, or on its way to be.
	Unchanged bool `json:"unchanged"`
	// Keep, New and Drop count definitions: bucket sources and lookup indexes.
	Keep int `json:"keep"`
	New  int `json:"new"`
	Drop int `json:"drop"`
	// Reads are the tables that would be backfilled.
	Reads []TableEstimate `json:"reads"`
	// Streams says what becomes of each stream's clients.
	Streams []StreamFate `json:"streams"`
	// Waits is what the deploy would wait for; Warnings say what else does not fit.
	Waits    []string `json:"waits_for,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// TableEstimate is a table to be read, and the number of its rows as the source
// estimates it.
type TableEstimate struct {
	Table string `json:"table"`
	Rows  int64  `json:"estimated_rows"`
}

// StreamFate is what a deploy does to a stream: unchanged, added, resent or removed.
type StreamFate struct {
	Name string `json:"name"`
	Fate string `json:"fate"`
}
