-- When the user last asked, in seconds since 1970, if it named an id whenever it did;
-- else NULL.
ALTER TABLE millrace.write_checkpoint ADD COLUMN requested bigint;
CREATE INDEX write_checkpoint_requested ON millrace.write_checkpoint (requested) WHERE requested IS NOT NULL;
