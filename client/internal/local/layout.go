package local

// The DDL and the SQL to go back are part of the file format: other clients compare
// and run them. What differs from a plain CREATE TABLE comes of the ALTER TABLEs of
// the official migrations.

const tables = `
CREATE TABLE ps_untyped(type TEXT NOT NULL, id TEXT NOT NULL, data TEXT, PRIMARY KEY (type, id));
CREATE TABLE ps_crud (id INTEGER PRIMARY KEY AUTOINCREMENT, data TEXT, tx_id INTEGER);
CREATE TABLE ps_tx(id INTEGER PRIMARY KEY NOT NULL, current_tx INTEGER, next_tx INTEGER);
CREATE TABLE ps_kv(key TEXT PRIMARY KEY NOT NULL, value BLOB);
CREATE TABLE ps_buckets(
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  last_applied_op INTEGER NOT NULL DEFAULT 0,
  last_op INTEGER NOT NULL DEFAULT 0,
  add_checksum INTEGER NOT NULL DEFAULT 0,
  op_checksum INTEGER NOT NULL DEFAULT 0,
  pending_delete INTEGER NOT NULL DEFAULT 0
, count_at_last INTEGER NOT NULL DEFAULT 0, count_since_last INTEGER NOT NULL DEFAULT 0, downloaded_size INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE UNIQUE INDEX ps_buckets_name ON ps_buckets (name);
CREATE TABLE ps_oplog(
  bucket INTEGER NOT NULL,
  op_id INTEGER NOT NULL,
  row_type TEXT,
  row_id TEXT,
  key TEXT,
  data TEXT,
  hash INTEGER NOT NULL) STRICT;
CREATE INDEX ps_oplog_row ON ps_oplog (row_type, row_id);
CREATE INDEX ps_oplog_opid ON ps_oplog (bucket, op_id);
CREATE INDEX ps_oplog_key ON ps_oplog (bucket, key);
CREATE TABLE ps_updated_rows(
  row_type TEXT,
  row_id TEXT,
  PRIMARY KEY(row_type, row_id)) STRICT, WITHOUT ROWID;
CREATE TABLE ps_stream_subscriptions (
  id INTEGER NOT NULL PRIMARY KEY,
  stream_name TEXT NOT NULL,
  active INTEGER NOT NULL DEFAULT FALSE,
  is_default INTEGER NOT NULL DEFAULT FALSE,
  local_priority INTEGER,
  local_params TEXT NOT NULL DEFAULT 'null',
  ttl INTEGER,
  expires_at INTEGER,
  last_synced_at INTEGER,
  UNIQUE (stream_name, local_params)
) STRICT;
CREATE TABLE ps_sync_state (
  priority INTEGER NOT NULL PRIMARY KEY,
  last_synced_at INTEGER NOT NULL
) STRICT;
INSERT INTO ps_tx(id, current_tx, next_tx) VALUES (1, NULL, 1);
`

// down holds the statements that undo each migration.
var down = [Version + 1][]string{
	2: {
		`DELETE FROM ps_migration WHERE id >= 2`,
		`DROP TABLE ps_tx`,
		`ALTER TABLE ps_crud DROP COLUMN tx_id`,
	},
	3: {
		`DELETE FROM ps_migration WHERE id >= 3`,
		`DROP TABLE ps_kv`,
	},
	4: {
		`DELETE FROM ps_migration WHERE id >= 4`,
		`ALTER TABLE ps_buckets DROP COLUMN op_checksum`,
		`ALTER TABLE ps_buckets DROP COLUMN remove_operations`,
	},
	5: {
		`SELECT powersync_drop_view(view.name)
  FROM sqlite_master view
  WHERE view.type = 'view'
    AND view.sql GLOB  '*-- powersync-auto-generated'`,
		`ALTER TABLE ps_buckets RENAME TO ps_buckets_5`,
		`ALTER TABLE ps_oplog RENAME TO ps_oplog_5`,
		`CREATE TABLE ps_buckets(
  name TEXT PRIMARY KEY,
  last_applied_op INTEGER NOT NULL DEFAULT 0,
  last_op INTEGER NOT NULL DEFAULT 0,
  target_op INTEGER NOT NULL DEFAULT 0,
  add_checksum INTEGER NOT NULL DEFAULT 0,
  pending_delete INTEGER NOT NULL DEFAULT 0
, op_checksum INTEGER NOT NULL DEFAULT 0, remove_operations INTEGER NOT NULL DEFAULT 0)`,
		`INSERT INTO ps_buckets(name, last_applied_op, last_op, target_op, add_checksum, op_checksum, pending_delete)
    SELECT name, last_applied_op, last_op, target_op, add_checksum, op_checksum, pending_delete FROM ps_buckets_5`,
		`CREATE TABLE ps_oplog(
  bucket TEXT NOT NULL,
  op_id INTEGER NOT NULL,
  op INTEGER NOT NULL,
  row_type TEXT,
  row_id TEXT,
  key TEXT,
  data TEXT,
  hash INTEGER NOT NULL,
  superseded INTEGER NOT NULL)`,
		`CREATE INDEX ps_oplog_by_row ON ps_oplog (row_type, row_id) WHERE superseded = 0`,
		`CREATE INDEX ps_oplog_by_opid ON ps_oplog (bucket, op_id)`,
		`CREATE INDEX ps_oplog_by_key ON ps_oplog (bucket, key) WHERE superseded = 0`,
		`INSERT INTO ps_oplog(bucket, op_id, op, row_type, row_id, key, data, hash, superseded)
    SELECT ps_buckets_5.name, oplog.op_id, 3, oplog.row_type, oplog.row_id, oplog.key, oplog.data, oplog.hash, 0
    FROM ps_oplog_5 oplog
    JOIN ps_buckets_5
        ON ps_buckets_5.id = oplog.bucket`,
		`DROP TABLE ps_oplog_5`,
		`DROP TABLE ps_buckets_5`,
		`INSERT INTO ps_oplog(bucket, op_id, op, row_type, row_id, hash, superseded)
    SELECT '$local', 1, 4, r.row_type, r.row_id, 0, 0
    FROM ps_updated_rows r`,
		`INSERT OR REPLACE INTO ps_buckets(name, pending_delete, last_op, target_op) VALUES('$local', 1, 0, 9223372036854775807)`,
		`DROP TABLE ps_updated_rows`,
		`DELETE FROM ps_migration WHERE id >= 5`,
	},
	6: {
		`DELETE FROM ps_migration WHERE id >= 6`,
	},
	7: {
		`INSERT OR REPLACE INTO ps_kv(key, value) SELECT 'last_synced_at', last_synced_at FROM ps_sync_state WHERE priority = 2147483647`,
		`DROP TABLE ps_sync_state`,
		`DELETE FROM ps_migration WHERE id >= 7`,
	},
	8: {
		`ALTER TABLE ps_sync_state RENAME TO ps_sync_state_new`,
		`CREATE TABLE ps_sync_state (
  priority INTEGER NOT NULL,
  last_synced_at TEXT NOT NULL
) STRICT`,
		`INSERT INTO ps_sync_state SELECT * FROM ps_sync_state_new`,
		`DROP TABLE ps_sync_state_new`,
		`DELETE FROM ps_migration WHERE id >= 8`,
	},
	9: {
		`ALTER TABLE ps_buckets DROP COLUMN count_at_last`,
		`ALTER TABLE ps_buckets DROP COLUMN count_since_last`,
		`DELETE FROM ps_migration WHERE id >= 9`,
	},
	10: {
		`SELECT powersync_drop_view(view.name)
  FROM sqlite_master view
  WHERE view.type = 'view'
    AND view.sql GLOB  '*-- powersync-auto-generated'`,
		`DELETE FROM ps_migration WHERE id >= 10`,
	},
	11: {
		`DROP TABLE ps_stream_subscriptions`,
		`DELETE FROM ps_migration WHERE id >= 11`,
	},
	12: {
		`ALTER TABLE ps_buckets DROP COLUMN downloaded_size`,
		`DELETE FROM ps_migration WHERE id >= 12`,
	},
	13: {
		`UPDATE ps_stream_subscriptions SET expires_at = expires_at / 1000000, last_synced_at = last_synced_at / 1000000`,
		`ALTER TABLE ps_sync_state RENAME TO ps_sync_state_new`,
		`CREATE TABLE ps_sync_state (
  priority INTEGER NOT NULL PRIMARY KEY,
  last_synced_at TEXT NOT NULL
) STRICT;`,
		`INSERT INTO ps_sync_state (priority, last_synced_at) SELECT priority, datetime(last_synced_at / 1000000, 'unixepoch') FROM ps_sync_state_new`,
		`DROP TABLE ps_sync_state_new`,
		`DELETE FROM ps_migration WHERE id >= 13`,
	},
	14: {
		`ALTER TABLE ps_buckets RENAME TO ps_buckets_14`,
		`DROP INDEX ps_buckets_name`,
		`CREATE TABLE ps_buckets(
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  last_applied_op INTEGER NOT NULL DEFAULT 0,
  last_op INTEGER NOT NULL DEFAULT 0,
  target_op INTEGER NOT NULL DEFAULT 0,
  add_checksum INTEGER NOT NULL DEFAULT 0,
  op_checksum INTEGER NOT NULL DEFAULT 0,
  pending_delete INTEGER NOT NULL DEFAULT 0
) STRICT`,
		`CREATE UNIQUE INDEX ps_buckets_name ON ps_buckets (name)`,
		`ALTER TABLE ps_buckets ADD COLUMN count_at_last INTEGER NOT NULL DEFAULT 0`,
		`ALTER TABLE ps_buckets ADD COLUMN count_since_last INTEGER NOT NULL DEFAULT 0`,
		`ALTER TABLE ps_buckets ADD COLUMN downloaded_size INTEGER NOT NULL DEFAULT 0`,
		`INSERT INTO ps_buckets(
  id,
  name,
  last_applied_op,
  last_op,
  add_checksum,
  op_checksum,
  pending_delete,
  count_at_last,
  count_since_last,
  downloaded_size
)
SELECT
  id,
  name,
  last_applied_op,
  last_op,
  add_checksum,
  op_checksum,
  pending_delete,
  count_at_last,
  count_since_last,
  downloaded_size
FROM ps_buckets_14`,
		`DROP TABLE ps_buckets_14`,
		`INSERT INTO ps_buckets(name, pending_delete, last_op, last_applied_op, target_op)
SELECT '$local', 1, seen, applied, target
  FROM (
    SELECT
      IFNULL((SELECT CAST(value AS INTEGER) FROM ps_kv WHERE key = 'last_seen_checkpoint_request_id'), 0) AS seen,
      IFNULL((SELECT CAST(value AS INTEGER) FROM ps_kv WHERE key = 'last_applied_checkpoint_request_id'), 0) AS applied,
      (SELECT CAST(value AS INTEGER) FROM ps_kv WHERE key = 'target_checkpoint_request_id') AS target
  )
 WHERE EXISTS (
    SELECT 1 FROM ps_kv WHERE key = 'target_checkpoint_request_id'
 )
ON CONFLICT(name) DO UPDATE SET
  pending_delete = excluded.pending_delete,
  last_op = excluded.last_op,
  last_applied_op = excluded.last_applied_op,
  target_op = excluded.target_op`,
		`DELETE FROM ps_migration WHERE id >= 14`,
	},
}

// steps holds the SQL that leads to each migration from the one before.
var steps = [Version + 1]string{
	9: `
ALTER TABLE ps_buckets ADD COLUMN count_at_last INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ps_buckets ADD COLUMN count_since_last INTEGER NOT NULL DEFAULT 0`,
	// Views of migration 10 need the virtual tables; applying the schema makes them again.
	10: ``,
	11: `
CREATE TABLE ps_stream_subscriptions (
  id INTEGER NOT NULL PRIMARY KEY,
  stream_name TEXT NOT NULL,
  active INTEGER NOT NULL DEFAULT FALSE,
  is_default INTEGER NOT NULL DEFAULT FALSE,
  local_priority INTEGER,
  local_params TEXT NOT NULL DEFAULT 'null',
  ttl INTEGER,
  expires_at INTEGER,
  last_synced_at INTEGER,
  UNIQUE (stream_name, local_params)
) STRICT`,
	12: `ALTER TABLE ps_buckets ADD COLUMN downloaded_size INTEGER NOT NULL DEFAULT 0`,
	// Times become microseconds.
	13: `
UPDATE ps_stream_subscriptions SET expires_at = expires_at * 1000000, last_synced_at = last_synced_at * 1000000;
ALTER TABLE ps_sync_state RENAME TO ps_sync_state_12;
CREATE TABLE ps_sync_state (
  priority INTEGER NOT NULL PRIMARY KEY,
  last_synced_at INTEGER NOT NULL
) STRICT;
INSERT INTO ps_sync_state SELECT priority, unixepoch(last_synced_at) * 1000000 FROM ps_sync_state_12;
DROP TABLE ps_sync_state_12`,
	// The gate moves from the row $local to ps_kv. Keys left from an earlier time at
	// this migration are stale: the row was in use since.
	14: `
DELETE FROM ps_kv WHERE key IN
  ('target_checkpoint_request_id', 'last_seen_checkpoint_request_id', 'last_applied_checkpoint_request_id');
INSERT INTO ps_kv(key, value)
  SELECT 'target_checkpoint_request_id', target_op FROM ps_buckets WHERE name = '$local' AND target_op > 0
  UNION ALL
  SELECT 'last_seen_checkpoint_request_id', last_op FROM ps_buckets WHERE name = '$local' AND last_op > 0
  UNION ALL
  SELECT 'last_applied_checkpoint_request_id', last_applied_op FROM ps_buckets WHERE name = '$local' AND last_applied_op > 0;
DELETE FROM ps_buckets WHERE name = '$local';
ALTER TABLE ps_buckets DROP COLUMN target_op`,
}
