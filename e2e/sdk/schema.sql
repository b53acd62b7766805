CREATE PUBLICATION powersync FOR ALL TABLES;
CREATE ROLE powersync_role LOGIN REPLICATION PASSWORD 'secret';

CREATE TABLE lists (id text PRIMARY KEY, owner text, name text);
CREATE TABLE items (id text PRIMARY KEY, list text, body text, size int);
CREATE TABLE bulk (id text PRIMARY KEY, body text);
CREATE TABLE extras (id text PRIMARY KEY, body text);

GRANT SELECT ON ALL TABLES IN SCHEMA public TO powersync_role;
