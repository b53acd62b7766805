package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"testing"
)

// A client that knows no write checkpoints is answered once what it uploaded has been
// replicated: a stream that it then opens has it in its first checkpoint.
func TestCatchUp(t *testing.T) {
	dsn, conn := database(t, shared.Cluster(t), "CREATE TABLE notes (id text PRIMARY KEY, owner text, body text)")
	in := newInstance(t, dsn)
	in.start(ownNotes)
	in.untilServed()
	for i := range 5 {
		exec(t, conn, fmt.Sprintf("INSERT INTO notes SELECT 'n%d-'||i, 'u', 'x' FROM generate_series(1, 2000) i", i))
		req, err := http.NewRequestWithContext(t.Context(), "GET", in.url+"/write-checkpoint.json?client_id=c", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Token "+in.token("u"))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var answer struct{ Data struct{ Checkpoint string } }
		err = json.NewDecoder(resp.Body).Decode(&answer)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d, %v", resp.StatusCode, err)
		}
		op, err := strconv.ParseUint(answer.Data.Checkpoint, 10, 63)
		if want := uint64(2000 * (i + 1)); err != nil || op < want {
			t.Errorf("caught up with checkpoint %q, want %d or more", answer.Data.Checkpoint, want)
		}
		in.open(in.token("u")).until(fmt.Sprintf(`"count":%d,`, 2000*(i+1)))
	}
}
