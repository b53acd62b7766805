-- Version 1. "millrace." stands for the schema that is configured.
--
-- Keys of any length are shortened to at most 1056 bytes (see keys.go), which an
-- index can hold. Versions number what was published: a row of a versioned table
-- is of the versions from from_v up to and without to_v; 9223372036854775807 is
-- that it still holds.

-- One row: who writes (the lease), the numbering, and the checkpoint.
CREATE TABLE millrace.store (
  one         bigint PRIMARY KEY,
  epoch       text NOT NULL,
  secret      bytea NOT NULL,
  token       bigint NOT NULL,          -- grows whenever the lease changes hands
  owner       text NOT NULL,            -- the open store that has the lease
  holder      text NOT NULL,            -- its process, for people
  expires     timestamptz NOT NULL,
  used_op     bigint NOT NULL,          -- the largest op id ever given
  next_def    bigint NOT NULL,
  next_bucket bigint NOT NULL,
  version     bigint NOT NULL,          -- of the checkpoint
  op          bigint NOT NULL,
  lsn         bigint NOT NULL,
  fence       boolean NOT NULL CONSTRAINT millrace_fence CHECK (fence)
);

-- One row: what readers may no longer ask for. Versions before pruned lack
-- lookups, definitions and deploys; those before purged lack ops.
CREATE TABLE millrace.horizon (
  one    bigint PRIMARY KEY,
  pruned bigint NOT NULL,
  purged bigint NOT NULL
);

CREATE TABLE millrace.definition (
  id     bigint NOT NULL,
  from_v bigint NOT NULL,
  to_v   bigint NOT NULL,
  body   bytea NOT NULL,
  PRIMARY KEY (id, from_v)
);

CREATE TABLE millrace.deploy (
  id     bigint NOT NULL,
  from_v bigint NOT NULL,
  to_v   bigint NOT NULL,
  body   bytea NOT NULL,
  PRIMARY KEY (id, from_v)
);

CREATE TABLE millrace.bucket (
  id     bigint PRIMARY KEY,
  def    bigint NOT NULL,
  params bytea NOT NULL,
  UNIQUE (def, params)
);

-- Count, checksum and bytes sum up all ops that the bucket was ever given, up to this
-- one: with what was compacted, the state of a bucket at any checkpoint is in its
-- last op up to there.
CREATE TABLE millrace.op (
  bucket   bigint NOT NULL,
  id       bigint NOT NULL,
  count    bigint NOT NULL,
  checksum bigint NOT NULL,
  bytes    bigint NOT NULL,
  body     bytea NOT NULL,
  PRIMARY KEY (bucket, id)
);

-- What compaction made of a bucket, from a version on: what is to be added to the
-- sums of its ops, and the op before which there is none. The newest row stays.
CREATE TABLE millrace.compacted (
  bucket bigint NOT NULL,
  from_v bigint NOT NULL,
  count  bigint NOT NULL,
  bytes  bigint NOT NULL,
  floor  bigint NOT NULL,
  PRIMARY KEY (bucket, from_v)
);
CREATE INDEX compacted_from ON millrace.compacted (from_v);

-- What compaction put in the place of an op's body, from a version on, until no
-- snapshot shows what was there before: then it moves into the op.
CREATE TABLE millrace.op_edit (
  bucket bigint NOT NULL,
  id     bigint NOT NULL,
  from_v bigint NOT NULL,
  body   bytea NOT NULL,
  PRIMARY KEY (bucket, id, from_v)
);
CREATE INDEX op_edit_from ON millrace.op_edit (from_v);

-- Where the last compaction of a bucket left it: the last op that it looked at, and
-- the number of ops then.
CREATE TABLE millrace.compaction_mark (
  bucket bigint PRIMARY KEY,
  until  bigint NOT NULL,
  count  bigint NOT NULL
);

-- Compactions that other processes ask the one that writes for: the buckets, each as
-- definition and parameters, none for all; and what became of it.
CREATE TABLE millrace.compaction_request (
  id          text PRIMARY KEY,
  at          timestamptz NOT NULL,
  buckets     bytea NOT NULL,
  incremental boolean NOT NULL,
  done        boolean NOT NULL,
  answer      bytea,
  failure     text
);

CREATE TABLE millrace.lookup (
  def     bigint NOT NULL,
  key     bytea NOT NULL,
  subkey  bytea NOT NULL,
  from_v  bigint NOT NULL,
  to_v    bigint NOT NULL,
  results bytea NOT NULL,
  PRIMARY KEY (def, key, subkey, from_v)
);
CREATE INDEX lookup_from ON millrace.lookup (from_v);
CREATE INDEX lookup_to ON millrace.lookup (to_v) WHERE to_v < 9223372036854775807;

-- Only the writer reads row records, so they have no versions.
CREATE TABLE millrace.row_record (
  tbl    bigint NOT NULL,
  key    bytea NOT NULL,
  record bytea NOT NULL,
  PRIMARY KEY (tbl, key)
);

-- What the unpublished parts of a version overwrote: the record that a row had,
-- NULL if none, and the buckets that got ops.
CREATE TABLE millrace.row_undo (
  version bigint NOT NULL,
  tbl     bigint NOT NULL,
  key     bytea NOT NULL,
  record  bytea,
  PRIMARY KEY (version, tbl, key)
);
CREATE TABLE millrace.bucket_undo (
  version bigint NOT NULL,
  bucket  bigint NOT NULL,
  PRIMARY KEY (version, bucket)
);

-- What each version changed, for the processes that follow; NULL for everything.
CREATE TABLE millrace.publication (
  version bigint PRIMARY KEY,
  at      timestamptz NOT NULL,
  changes bytea
);

-- Seq numbers the requests in the order of their commits.
CREATE TABLE millrace.write_checkpoint (
  user_key bytea PRIMARY KEY,
  username bytea NOT NULL,
  id       bigint NOT NULL,
  lsn      bigint NOT NULL,
  seq      bigint NOT NULL
);
CREATE INDEX write_checkpoint_seq ON millrace.write_checkpoint (seq);
CREATE TABLE millrace.upload_counter (
  one bigint PRIMARY KEY,
  seq bigint NOT NULL
);
