package storagetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

func writeCheckpointNumbering(t *tester) {
	type request = storage.WriteCheckpointRequest
	for _, step := range []struct {
		reqs []request
		want []uint64
		last storage.WriteCheckpoint // of user u
	}{
		{[]request{{User: "u", LSN: 100}}, []uint64{1}, storage.WriteCheckpoint{ID: 1, LSN: 100}},
		{[]request{{User: "u", LSN: 110}, {User: "v", LSN: 110}, {User: "u", LSN: 120}}, []uint64{2, 1, 3}, storage.WriteCheckpoint{ID: 3, LSN: 120}},
		{[]request{{User: "u", AtLeast: 10, LSN: 130}}, []uint64{10}, storage.WriteCheckpoint{ID: 10, LSN: 130}},
		{[]request{{User: "u", AtLeast: 10, LSN: 140}}, []uint64{10}, storage.WriteCheckpoint{ID: 10, LSN: 140}},
		{[]request{{User: "u", AtLeast: 4, LSN: 150}}, []uint64{10}, storage.WriteCheckpoint{ID: 10, LSN: 150}},
		{[]request{{User: "u", LSN: 90}}, []uint64{11}, storage.WriteCheckpoint{ID: 11, LSN: 150}},
		{[]request{{User: "u/client"}}, []uint64{1}, storage.WriteCheckpoint{ID: 11, LSN: 150}},
		{nil, nil, storage.WriteCheckpoint{ID: 11, LSN: 150}},
	} {
		got, err := t.store.RequestWriteCheckpoints(t.Context(), step.reqs)
		if err != nil || !slices.Equal(got, step.want) {
			t.Fatalf("request %+v: %v, %v; want %v", step.reqs, got, err, step.want)
		}
		if got, ok, err := t.store.WriteCheckpoint("u"); !ok || err != nil || got != step.last {
			t.Fatalf("after %+v: %v, %v, %v; want %v", step.reqs, got, ok, err, step.last)
		}
	}
	// The positions of another source begin anew, the numbers go on.
	if err := t.store.ResetWriteCheckpoints(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := t.store.WriteCheckpoint("u"); !ok || err != nil || got != (storage.WriteCheckpoint{ID: 11, LSN: 2}) {
		t.Fatalf("after a reset: %v, %v, %v; want 11 at 2", got, ok, err)
	}
	if ids, err := t.store.RequestWriteCheckpoints(t.Context(), []request{{User: "u", LSN: 3}}); err != nil || !slices.Equal(ids, []uint64{12}) {
		t.Fatalf("request after a reset: %v, %v; want 12", ids, err)
	}
	if got, _, _ := t.store.WriteCheckpoint("u"); got != (storage.WriteCheckpoint{ID: 12, LSN: 3}) {
		t.Fatalf("after a reset and a request: %v; want 12 at 3", got)
	}
}

func writeCheckpointsAreDurable(t *tester) {
	t.define(1)
	t.commit(&storage.Batch{Ops: bucketOps(bucketA, put(1, "x", "1"))}) // an open transaction is no obstacle
	if _, err := t.store.RequestWriteCheckpoints(t.Context(), []storage.WriteCheckpointRequest{{User: "u", LSN: 7}}); err != nil {
		t.Fatal(err)
	}
	t.crash(rand.New(rand.NewPCG(7, 7)))
	if got, ok, err := t.store.WriteCheckpoint("u"); !ok || err != nil || got != (storage.WriteCheckpoint{ID: 1, LSN: 7}) {
		t.Fatalf("after a crash: %v, %v, %v", got, ok, err)
	}
}

func writeCheckpointLimit(t *tester) {
	largest := uint64(bucket.MaxOpID)
	if _, err := t.store.RequestWriteCheckpoints(t.Context(), []storage.WriteCheckpointRequest{{User: "u", AtLeast: largest}}); err != nil {
		t.Fatal(err)
	}
	// Requests of many clients share a step: one that is at the end must not keep the
	// others from theirs.
	ids, err := t.store.RequestWriteCheckpoints(t.Context(), []storage.WriteCheckpointRequest{{User: "a"}, {User: "u"}, {User: "z"}})
	if err != nil || !slices.Equal(ids, []uint64{1, largest, 1}) {
		t.Fatalf("beside a user at the end of its numbering: %v, %v", ids, err)
	}
	_, err = t.store.RequestWriteCheckpoints(t.Context(), []storage.WriteCheckpointRequest{{User: "w"}, {User: "v", AtLeast: largest + 1}})
	if !errors.Is(err, storage.ErrBatch) {
		t.Fatalf("a number beyond the largest: %v, want ErrBatch", err)
	}
	if _, ok, _ := t.store.WriteCheckpoint("w"); ok {
		t.Fatal("a refused request left a write checkpoint")
	}
}

// checkpointRequestsAreForgotten: what users asked for by number only, long ago, goes
// once it is reached, and nothing else.
func checkpointRequestsAreForgotten(t *tester) {
	const many = 2500 // more than are removed in one step
	early := time.Unix(1_772_000_000, 0)
	late, between := early.Add(time.Hour), early.Add(30*time.Minute)
	request := func(at time.Time, atLeast uint64, lsn source.LSN, users ...string) {
		t.Helper()
		var reqs []storage.WriteCheckpointRequest
		for _, u := range users {
			reqs = append(reqs, storage.WriteCheckpointRequest{User: u, AtLeast: atLeast, LSN: lsn, At: at})
		}
		if _, err := t.store.RequestWriteCheckpoints(t.Context(), reqs); err != nil {
			t.Fatal(err)
		}
	}
	forget := func(want int64) {
		t.Helper()
		if n, err := t.store.ForgetCheckpointRequests(t.Context(), between); err != nil || n != want {
			t.Fatalf("%d were removed, %v; want %d", n, err, want)
		}
	}
	stored := func(user string, want uint64) {
		t.Helper()
		if wc, ok, err := t.store.WriteCheckpoint(user); err != nil || ok != (want > 0) || wc.ID != want {
			t.Fatalf("write checkpoint of %s: %v, %v, %v; want %d", user, wc, ok, err, want)
		}
	}
	t.define(1)
	var crowd []string
	for i := range many {
		crowd = append(crowd, fmt.Sprint("crowd", i))
	}
	request(early, 5, 10, crowd...)
	request(early, 5, 10, "old", "renewed", "both", "ahead")
	request(late, 6, 10, "renewed", "recent")
	request(early, 0, 10, "plain", "both", "plain first")
	request(early, 9, 10, "plain first")
	request(early, 7, 1000, "ahead")
	forget(0) // nothing is reached
	t.commit(&storage.Batch{Publish: true, LSN: 100, Ops: bucketOps(bucketA, put(1, "x", "1"))})
	forget(many + 1)
	forget(0)
	for user, want := range map[string]uint64{
		"old": 0, "crowd0": 0, crowd[many-1]: 0, "renewed": 6, "recent": 6, "both": 6, "plain": 1, "plain first": 9, "ahead": 7,
	} {
		stored(user, want)
	}
	// Who comes back says the number again, and everybody goes on with theirs.
	request(late, 5, 110, "old")
	stored("old", 5)
	request(late, 0, 110, "plain")
	stored("plain", 2)
	// The positions of another source are as good as any.
	if err := t.store.ResetWriteCheckpoints(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	forget(1)
	stored("ahead", 0)
	stored("plain", 2)
}
