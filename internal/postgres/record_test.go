package postgres_test

import (
	"os"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/pgtest"
	"github.com/millrace-sync/millrace/internal/postgres"
)

// recorded is what TestDecodeRecorded decodes: the messages of a real server, one
// a line in hexadecimal.
const recorded = "testdata/pgoutput/messages.txt"

// TestRecord records the messages again with -update, and otherwise checks that
// the server still sends as many of each kind.
func TestRecord(t *testing.T) {
	w := newWorld(t, `CREATE TYPE mood AS ENUM ('sad', 'ok');
		CREATE TABLE note (id int PRIMARY KEY, body text, m mood, n numeric(9,2));
		CREATE TABLE whole (x int, y text); ALTER TABLE whole REPLICA IDENTITY FULL;
		ALTER TABLE note ALTER body SET STORAGE EXTERNAL`)
	w.exec("INSERT INTO note VALUES (1, 'one', 'ok', 1.5), (2, NULL, NULL, 'NaN')",
		"UPDATE note SET body = repeat('x', 3000) WHERE id = 1",
		"UPDATE note SET n = 3 WHERE id = 1",
		"UPDATE note SET id = 3 WHERE id = 1",
		"DELETE FROM note WHERE id = 2",
		"INSERT INTO whole VALUES (1, 'a')", "UPDATE whole SET y = 'b'", "DELETE FROM whole",
		"TRUNCATE note, whole",
		"SELECT pg_logical_emit_message(true, 'millrace', 'ours')",
		"SELECT pg_logical_emit_message(false, 'other', 'not ours')",
		"BEGIN; INSERT INTO note VALUES (4); ALTER TABLE note ADD COLUMN extra bool; INSERT INTO note VALUES (5); COMMIT")
	w.exec("SELECT pg_replication_origin_create('upstream')", "SELECT pg_replication_origin_session_setup('upstream')",
		"INSERT INTO whole VALUES (9, 'o')", "SELECT pg_replication_origin_session_reset()")
	t.Cleanup(func() { pgtest.Exec(t, w.dsn, "SELECT pg_replication_origin_drop('upstream')") })
	results, err := w.conn.Exec(t.Context(), `SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes('`+w.config.Slot+`', NULL, NULL,
		'proto_version', '1', 'publication_names', '`+postgres.DefaultPublication+`', 'messages', 'true')`).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range results[0].Rows {
		lines = append(lines, string(r[0]))
	}
	if *update {
		if err := os.WriteFile(recorded, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(recorded)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := kinds(lines), kinds(strings.Fields(string(text))); got != want {
		t.Errorf("the server sends messages of kinds\n%s, recorded were\n%s", got, want)
	}
}

// kinds returns the first byte of each message, in hexadecimal, without begin and
// commit of empty transactions, which Postgres 14 still sends.
func kinds(lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l[:2])
	}
	return strings.ReplaceAll(b.String(), "4243", "")
}
