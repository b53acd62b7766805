-- One statement a line. Both sides run it; both must fail or neither.
INSERT INTO notes(id, body, n, price) VALUES ('n1', 'first', 1, 1.5)
INSERT INTO notes(id, body, n, price) VALUES ('n2', 'zweite ü 😀 "q" \ / ''s''', 9007199254740993, 2.0)
INSERT INTO notes(id, body, n, price, owner) VALUES ('n3', NULL, '77', 'text', char(1,8,9,10,12,13,27,31,127,8232))
INSERT INTO notes(id, n, price) VALUES ('n4', 9223372036854775807, 1e300), ('n5', -9223372036854775808, -0.0), ('n6', 1e15, 1e16)
INSERT INTO notes(id, price, n) VALUES ('n7', 1e17, 1e-5), ('n8', 0.0001, 123456789.125), ('n9', 1e22, 1.7976931348623157e308), ('n10', 5e-324, 0.1)
INSERT INTO notes(id, body) VALUES ('n11', json_object('a', 1)), ('n12', json('[1,2]')), ('n13', '{"a":1}'), ('n14', '')
UPDATE notes SET body = 'changed' WHERE id = 'n1'
UPDATE notes SET body = NULL, n = n + 1 WHERE id IN ('n1', 'n2')
UPDATE notes SET body = body WHERE id = 'n2'
UPDATE notes SET price = 2 WHERE id = 'n2'
UPDATE notes SET owner = json_array(1, 'x') WHERE id > 'n2'
DELETE FROM notes WHERE id = 'n3'
DELETE FROM notes WHERE id = 'absent'
BEGIN
INSERT INTO notes(id, body) VALUES ('t1', 'a')
UPDATE notes SET body = 'b' WHERE id = 't1'
DELETE FROM notes WHERE id = 'n2'
COMMIT
BEGIN
INSERT INTO notes(id, body) VALUES ('t2', 'a')
ROLLBACK
BEGIN
SAVEPOINT s
INSERT INTO notes(id, body) VALUES ('t3', 'a')
ROLLBACK TO s
INSERT INTO notes(id, body) VALUES ('t4', 'a')
RELEASE s
COMMIT
INSERT INTO notes(body) VALUES ('no id')
INSERT INTO notes(id, body) VALUES (7, 'a number')
INSERT INTO notes(id, body) VALUES ('n1', 'a second time')
INSERT OR IGNORE INTO notes(id, body) VALUES ('n1', 'ignored')
INSERT OR REPLACE INTO notes(id, body) VALUES ('n1', 'replaced')
INSERT INTO notes(id) VALUES ('n1') ON CONFLICT (id) DO NOTHING
UPDATE notes SET id = 'other' WHERE id = 'n1'
INSERT INTO local(id, a, b) VALUES ('l1', 'x', 1)
INSERT INTO local(a, b) VALUES ('no id', 1)
UPDATE local SET a = 'y'
UPDATE local SET id = 'other'
DELETE FROM local
INSERT INTO local_metadata(id, a, _metadata) VALUES ('l1', 'x', 'm')
UPDATE local_metadata SET a = 'y', _metadata = 'm'
UPDATE local_metadata SET _deleted = TRUE
INSERT INTO log(id, a, b, c) VALUES ('e1', 'x', 1, NULL)
INSERT INTO log_metadata(id, a, _metadata) VALUES ('e1', 'x', 'lost')
UPDATE log SET a = 'y'
DELETE FROM log
INSERT INTO log(a) VALUES ('no id')
BEGIN
INSERT INTO log(id, a) VALUES ('e2', 'x')
INSERT INTO notes(id) VALUES ('with e2')
INSERT INTO log(id, a) VALUES ('e3', 'x')
COMMIT
INSERT INTO old(id, a, b, _metadata) VALUES ('o1', 'x', 1, 'm "1"'), ('o2', 'y', NULL, NULL)
UPDATE old SET b = 2, _metadata = 'm2' WHERE id = 'o1'
UPDATE old SET b = b
UPDATE old SET b = 3, _metadata = 5 WHERE id = 'o1'
UPDATE old SET _deleted = TRUE, _metadata = 'gone' WHERE id = 'o1'
UPDATE old SET _deleted = 0, a = 'z' WHERE id = 'o2'
DELETE FROM old
INSERT INTO renamed(id, a, b, c) VALUES ('r1', 'x', 1, 1.5), ('r2', NULL, NULL, NULL)
UPDATE renamed SET a = 'y'
UPDATE renamed SET b = 7
UPDATE renamed SET a = 'y', b = 7
UPDATE renamed SET a = NULL, c = NULL
BEGIN
UPDATE renamed SET b = b
COMMIT
DELETE FROM renamed
INSERT INTO old_changed(id, a, b, c, _metadata) VALUES ('c1', 'x', 1, 1.5, 'm')
UPDATE old_changed SET a = 'y', _metadata = 'only'
UPDATE old_changed SET _metadata = 'only'
UPDATE old_changed SET _deleted = 1
INSERT INTO "qu""o'te"(id, "a""b'c", "order") VALUES ('q', 'x', 1)
UPDATE "qu""o'te" SET "a""b'c" = 'y'
DELETE FROM "qu""o'te"
INSERT INTO empty(id) VALUES ('e')
UPDATE empty SET id = id
DELETE FROM empty
INSERT INTO fifty(id, c0, c49) VALUES ('f', 'a', 'z')
INSERT INTO fifty_one(id, c0, c50) VALUES ('f', 'a', 'z')
UPDATE fifty_one SET c50 = 'y'
INSERT INTO wide(id, c0, c50, c99, c104) VALUES ('w', 'a', 'b', 'c', 'd')
UPDATE wide SET c104 = 'e', c0 = NULL
DELETE FROM wide
INSERT INTO powersync_crud(op, id, type, data, options) VALUES ('PATCH', 'x', 'own', '{}', 16)
INSERT INTO powersync_crud(op, id, type, data, old_values, metadata) VALUES ('PATCH', 'x', 'own', '{"a":1}', '{"a":0}', 'm')
INSERT INTO powersync_crud_(data) VALUES ('{"op":"PUT","type":"own","id":"y"}')
INSERT INTO powersync_crud_(data, options) VALUES ('{"op":"PATCH","type":"own","id":"y","data":{}}', 16)
SELECT * FROM powersync_crud
