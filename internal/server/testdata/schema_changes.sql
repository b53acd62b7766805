-- the beginning
CREATE TABLE notes (id text PRIMARY KEY, body text, n integer);
INSERT INTO notes VALUES ('a', 'one', 1), ('b', 'two', 2);
CREATE TABLE logs_1 (id text PRIMARY KEY, line text);
INSERT INTO logs_1 VALUES ('l1', 'first');
CREATE TABLE parts (id text, day integer, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM (0) TO (10);
INSERT INTO parts VALUES ('p1', 1);

-- a column with a default, and nothing else happens
ALTER TABLE notes ADD COLUMN extra text DEFAULT 'hi';

-- a column with a default, and a change of one row
ALTER TABLE notes ADD COLUMN more integer DEFAULT 7;
UPDATE notes SET more = 8 WHERE id = 'a';

-- columns with a default in two tables, after a change of a row of the one
UPDATE notes SET n = 12 WHERE id = 'a';
ALTER TABLE notes ADD COLUMN late text DEFAULT 'so far';
ALTER TABLE logs_1 ADD COLUMN late text DEFAULT 'so far';

-- columns with a default in two tables, after a change of a row of the other
UPDATE logs_1 SET line = 'changed';
ALTER TABLE notes ADD COLUMN later integer DEFAULT 8;
ALTER TABLE logs_1 ADD COLUMN later integer DEFAULT 8;

-- they go again
ALTER TABLE notes DROP COLUMN late, DROP COLUMN later;
ALTER TABLE logs_1 DROP COLUMN late, DROP COLUMN later;

-- a column renamed
ALTER TABLE notes RENAME COLUMN body TO text;

-- a column renamed, with changes before and after
UPDATE notes SET n = 10 WHERE id = 'a';
ALTER TABLE notes RENAME COLUMN text TO content;
UPDATE notes SET n = 11 WHERE id = 'b';

-- a column dropped
ALTER TABLE notes DROP COLUMN extra;

-- a column's type changed
ALTER TABLE notes ALTER COLUMN n TYPE text USING 'number ' || n;

-- a table that matches the wildcard, with rows
CREATE TABLE logs_2 (id text PRIMARY KEY, line text);
INSERT INTO logs_2 VALUES ('l2', 'second'), ('l3', 'third');

-- a table that matches the wildcard, empty
CREATE TABLE logs_3 (id text PRIMARY KEY, line text);

-- that table gets its first row
INSERT INTO logs_3 VALUES ('l4', 'fourth');

-- a table renamed into the wildcard, a change that leaves a large value out, and a column dropped
CREATE TABLE large (id text PRIMARY KEY, line text, n integer);
ALTER TABLE large ALTER COLUMN line SET STORAGE EXTERNAL;
INSERT INTO large VALUES ('l7', repeat('large', 1000), 1);
ALTER TABLE large RENAME TO logs_4;
UPDATE logs_4 SET n = 2;
ALTER TABLE logs_4 DROP COLUMN n;

-- the same, and the table dropped
CREATE TABLE large (id text PRIMARY KEY, line text, n integer);
ALTER TABLE large ALTER COLUMN line SET STORAGE EXTERNAL;
INSERT INTO large VALUES ('l8', repeat('large', 1000), 1);
ALTER TABLE large RENAME TO logs_5;
UPDATE logs_5 SET n = 2;
DROP TABLE logs_5;

-- a table dropped
DROP TABLE logs_2;

-- a table renamed away
ALTER TABLE logs_1 RENAME TO archive_1;

-- changes to a table renamed away, and one to another
INSERT INTO archive_1 VALUES ('l5', 'unseen');
INSERT INTO logs_3 VALUES ('l6', 'seen');

-- a table renamed back
ALTER TABLE archive_1 RENAME TO logs_1;

-- a table dropped and created again with other columns
DROP TABLE notes;
CREATE TABLE notes (id text PRIMARY KEY, body text);
INSERT INTO notes VALUES ('a', 'anew');

-- a table dropped and created again in one transaction
BEGIN;
DROP TABLE notes;
CREATE TABLE notes (id text PRIMARY KEY, body text, z integer);
INSERT INTO notes VALUES ('a', 'anew', 1), ('c', 'fresh', 2);
COMMIT;

-- a partition attached with its rows
CREATE TABLE parts_b (id text, day integer, PRIMARY KEY (id, day));
INSERT INTO parts_b VALUES ('p2', 11), ('p3', 12);
ALTER TABLE parts ATTACH PARTITION parts_b FOR VALUES FROM (10) TO (20);

-- a row moved between partitions
UPDATE parts SET day = 13 WHERE id = 'p1';

-- a partition detached
ALTER TABLE parts DETACH PARTITION parts_b;

-- a partition attached again
ALTER TABLE parts ATTACH PARTITION parts_b FOR VALUES FROM (10) TO (20);

-- the replica identity changed to full
ALTER TABLE notes REPLICA IDENTITY FULL;
UPDATE notes SET z = 5 WHERE id = 'a';

-- and back
ALTER TABLE notes REPLICA IDENTITY DEFAULT;
UPDATE notes SET z = 6 WHERE id = 'a';
DELETE FROM notes WHERE id = 'c';

-- the primary key changed
ALTER TABLE notes DROP CONSTRAINT notes_pkey;
ALTER TABLE notes ALTER COLUMN z SET NOT NULL;
ALTER TABLE notes ADD PRIMARY KEY (z);
UPDATE notes SET body = 'after' WHERE z = 6;

-- a large value, which later updates leave out
ALTER TABLE notes ADD COLUMN big text;
UPDATE notes SET big = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 400) i);
UPDATE notes SET body = 'beside a large value';

-- that value rewritten by an alteration, and left out of the next update at once
ALTER TABLE notes ALTER COLUMN big TYPE text USING 'rewritten ' || big;
UPDATE notes SET body = 'after it was rewritten';

-- values shortened by an alteration, and nothing else happens
ALTER TABLE notes ALTER COLUMN big TYPE varchar(2000) USING left(big, 2000);

-- the same under the same name of the type, which keeps the length to itself
ALTER TABLE notes ALTER COLUMN big TYPE varchar(1500) USING left(big, 1500);

-- the same, and the value left out of the next update
ALTER TABLE notes ALTER COLUMN big TYPE varchar(1200) USING left(big, 1200);
UPDATE notes SET body = 'after it was shortened';

-- all rows written anew as they are
VACUUM FULL notes;

-- all rows taken away and others put
TRUNCATE notes;
INSERT INTO notes (id, body, z, big) VALUES ('t', 'after all went', 6, repeat('big', 300)), ('u', 'too', 7, '');

-- columns of types that can be altered
CREATE TYPE mood AS ENUM ('happy', 'sad');
CREATE TYPE place AS (town text, street text);
ALTER TABLE notes ADD COLUMN mood mood DEFAULT 'sad', ADD COLUMN place place DEFAULT '(Ulm,Main)', ADD COLUMN moods mood[] DEFAULT '{sad,happy}';

-- an enum's label renamed, and nothing else happens
ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';

-- again, with a change of one row
ALTER TYPE mood RENAME VALUE 'happy' TO 'glad';
UPDATE notes SET body = 'in another mood' WHERE z = 6;

-- a label added, and used
ALTER TYPE mood ADD VALUE 'calm';

-- that value put
UPDATE notes SET mood = 'calm' WHERE z = 7;

-- a composite's attribute renamed, and one added
ALTER TYPE place RENAME ATTRIBUTE town TO city;
ALTER TYPE place ADD ATTRIBUTE number integer;

-- they go again
ALTER TABLE notes DROP COLUMN mood, DROP COLUMN place, DROP COLUMN moods;
DROP TYPE mood;
DROP TYPE place;

-- the replica identity an index of other columns
ALTER TABLE notes ALTER COLUMN body SET NOT NULL;
UPDATE notes SET body = body || z;
CREATE UNIQUE INDEX notes_by_body ON notes (body);
ALTER TABLE notes REPLICA IDENTITY USING INDEX notes_by_body;
UPDATE notes SET body = body || '!' WHERE z = 6;
DELETE FROM notes WHERE z <> 6;

-- the replica identity nothing, and inserts, which alone are then allowed
ALTER TABLE notes REPLICA IDENTITY NOTHING;
INSERT INTO notes (id, body, z) VALUES ('i', 'inserted', 77);

-- the default identity again
ALTER TABLE notes REPLICA IDENTITY DEFAULT;
UPDATE notes SET body = 'changed' WHERE z = 77;
DELETE FROM notes WHERE z = 6;
