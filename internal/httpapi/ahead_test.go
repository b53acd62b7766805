package httpapi_test

import (
	"net/http"
	"testing"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
)

// A session that wakes between a commit and its publication at the hub sends all
// that the commit changed, or nothing of it: here the write checkpoint wakes it.
func TestStoreAheadOfHub(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service, client *http.Client) {
		s.commit("ann", 1, "before")
		l := stream(t, client, token(nil), `{"client_id":"c"}`)
		defer l.resp.Body.Close()
		l.want(`{"checkpoint":{"last_op_id":"1"`, `{"data":`, `{"checkpoint_complete":`)
		s.idle()

		s.store.mu.Lock()
		key := storage.BucketKey{Def: 1, Params: `["ann"]`}
		if _, ok := s.store.ops[key]; !ok {
			key.Def = 2
		}
		before := s.store.ops[key]
		s.store.checkpoint.Op++
		s.store.checkpoint.LSN++
		s.store.ops[key] = append(before[:len(before):len(before)], bucket.Op{ID: s.store.checkpoint.Op, Kind: bucket.Put, ObjectType: "notes", ObjectID: "2", Data: []byte(`{}`)})
		s.store.mu.Unlock()
		if w := s.call("GET", "/write-checkpoint2.json?client_id=c", "", "Authorization", "Token "+token(nil)); w.Code != 200 {
			t.Fatal(w.Body)
		}
		l.want(`{"checkpoint_diff":{"last_op_id":"2","write_checkpoint":"1"`, `{"data":`, `{"checkpoint_complete":{"last_op_id":"2"}}`)
	})
}
