-- What other processes ask the one that writes for, until when, and what it answered:
-- failure is NULL if it went well. It was compactions alone before.
DROP TABLE millrace.compaction_request;
CREATE TABLE millrace.request (
  id      text PRIMARY KEY,
  at      timestamptz NOT NULL,
  expires timestamptz NOT NULL,
  kind    text NOT NULL,
  body    bytea NOT NULL,
  done    boolean NOT NULL,
  answer  bytea,
  failure text
);
