-- The notes app's database: one synced table, the table for refused writes, the
-- publication that the service replicates from, and two roles that can do just
-- what their program needs. Running it again changes nothing.

CREATE TABLE IF NOT EXISTS greeting (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    owner      text        NOT NULL,
    message    text        NOT NULL,
    author     text        NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Writes that the backend acknowledged but can never apply. The digest of user
-- and write makes a repeated upload leave one entry. The write is kept as text:
-- jsonb refuses some of what JSON allows, and this table must refuse nothing.
CREATE TABLE IF NOT EXISTS upload_dead_letter (
    digest      bytea       PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now(),
    owner       text        NOT NULL,
    write       text        NOT NULL,
    code        text        NOT NULL,
    reason      text        NOT NULL
);

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'powersync') THEN
        CREATE PUBLICATION powersync FOR TABLE greeting;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'powersync_role') THEN
        CREATE ROLE powersync_role LOGIN REPLICATION;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'notes_backend') THEN
        CREATE ROLE notes_backend LOGIN;
    END IF;
END
$$;

GRANT SELECT ON greeting TO powersync_role;
GRANT SELECT, INSERT, UPDATE, DELETE ON greeting TO notes_backend;
GRANT SELECT, INSERT ON upload_dead_letter TO notes_backend;
