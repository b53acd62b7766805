package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
)

// A reader that takes longer than its snapshot is kept goes on by the newest state,
// as often as that happens: its stream does not end, and it gets every operation once.
func TestSnapshotExpires(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		const ops, late = 5000, 3
		left := late
		s.store.reading = func(_ storage.BucketKey, after bucket.OpID) {
			if after == 0 || left == 0 {
				return
			}
			left--
			if left > 0 { // and at last without a change that concerns the client
				s.commit("ann", 1, "late")
			} else {
				s.commit("bob", 1, "his")
			}
			s.store.mu.Lock()
			s.store.kept = s.store.checkpoint.Op
			s.store.mu.Unlock()
		}
		s.commit("ann", ops, "early")
		l := stream(t, client, token(nil), `{}`)
		defer l.resp.Body.Close()
		seen := map[string]int{}
		for {
			line, err := l.reader.ReadBytes('\n')
			if err != nil {
				t.Fatalf("after %d operations: %v", len(seen), err)
			}
			var data struct {
				Data struct {
					Ops []struct {
						ID string `json:"op_id"`
					} `json:"data"`
				}
			}
			if err := json.Unmarshal(line, &data); err != nil {
				t.Fatal(err)
			}
			for _, op := range data.Data.Ops {
				seen[op.ID]++
			}
			if strings.HasPrefix(string(line), `{"checkpoint_complete"`) {
				break
			}
		}
		if want := ops + late - 1; len(seen) != want || left != 0 {
			t.Errorf("%d operations came, want %d; %d expiries did not", len(seen), want, left)
		}
		for id, n := range seen {
			if n != 1 {
				t.Errorf("operation %s came %d times", id, n)
			}
		}
		s.idle()
	})
}
