package server

import "testing"

// A row of any size that Postgres can send arrives whole, by a backfill and by the
// stream of changes, and nothing beside it is delayed.
func TestLargeRows(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t),
		"CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)",
		"INSERT INTO notes VALUES ('before', 'u', repeat('x', 20 << 20)), ('small', 'u', 'x')")
	in := newInstance(t, dsn)
	in.start(ownNotes)
	c := in.connect("u")
	c.untilEqual("a large row that was there", conn, notesOf("u"))
	exec(t, conn, "INSERT INTO notes VALUES ('after', 'u', repeat('y', 20 << 20)), ('small too', 'u', 'x')")
	c.untilEqual("a large row that came later", conn, notesOf("u"))
}
