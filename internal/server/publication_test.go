package server

import "testing"

// Changes that the publication left out for a while, because a table was not in it or a
// kind of change, are found once it has them again.
func TestPublicationAltered(t *testing.T) {
	const (
		less = "ALTER PUBLICATION powersync SET (publish = 'insert, update')"
		all  = "ALTER PUBLICATION powersync SET (publish = 'insert, update, delete, truncate')"
		drop = "ALTER PUBLICATION powersync DROP TABLE notes"
		add  = "ALTER PUBLICATION powersync ADD TABLE notes"
	)
	for _, c := range []struct {
		name, begin, end string
		away             bool
	}{
		{"a table left it and came back", drop, add, false},
		{"a table left it and came back while nobody listened", drop, add, true},
		{"it had no deletes", less, all, false},
		{"it had no deletes while nobody listened", less, all, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dsn, conn := database(t, shared.Cluster(t),
				"DROP PUBLICATION powersync", "CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "CREATE PUBLICATION powersync FOR TABLE notes",
				"INSERT INTO notes SELECT 'n'||i, 'u', 'body' FROM generate_series(1, 20) i")
			in := newInstance(t, dsn)
			in.start(ownNotes)
			client := in.connect("u")
			client.untilEqual("first sync", conn, notesOf("u"))
			if c.away {
				in.stop()
			}
			exec(t, conn, c.begin, "DELETE FROM notes WHERE id = 'n1'", "UPDATE notes SET body = 'changed' WHERE id = 'n2'", c.end)
			if c.away {
				in.start(ownNotes)
			}
			client.untilEqual("what was not published", conn, notesOf("u"))
			exec(t, conn, "DELETE FROM notes WHERE id = 'n3'")
			client.untilEqual("what is published again", conn, notesOf("u"))
		})
	}
}

// A publication that leaves deletes out while it is in use is noticed, and named.
func TestPublicationWithoutDeletes(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)", "INSERT INTO notes VALUES ('a', 'u', 'one'), ('b', 'u', 'two')")
	in := newInstance(t, dsn)
	in.start(ownNotes)
	client := in.connect("u")
	client.untilEqual("first sync", conn, notesOf("u"))
	in.ready()
	exec(t, conn, "ALTER PUBLICATION powersync SET (publish = 'insert, update')", "DELETE FROM notes WHERE id = 'a'")
	in.untilProbe("readiness", 400, "does not publish all of insert, update, delete and truncate")
	exec(t, conn, "ALTER PUBLICATION powersync SET (publish = 'insert, update, delete, truncate')")
	client.untilEqual("what was deleted meanwhile", conn, notesOf("u"))
	in.untilProbe("readiness", 200, "")
}
