package protocol_test

import (
	"testing"

	"github.com/millrace-sync/millrace/protocol"
)

// TestErrorClasses holds what each code that clients can meet stands for: the status,
// and the name and the severity in the body.
func TestErrorClasses(t *testing.T) {
	for code, want := range map[protocol.Code]protocol.Error{
		protocol.BadRequest:           {Status: 400, Name: "ValidationError"},
		protocol.RouteNotFound:        {Status: 404, Name: "RouteNotFound", Severity: "info"},
		protocol.ShuttingDown:         {Status: 503, Name: "ServiceError"},
		protocol.MediaTypeUnsupported: {Status: 415, Name: "ServiceError"},
		protocol.Unauthorized:         {Status: 401, Name: "AuthorizationError"},
		protocol.TokenExpired:         {Status: 401, Name: "AuthorizationError"},
		protocol.TokenLifetimeTooLong: {Status: 401, Name: "AuthorizationError"},
		protocol.AudienceMismatch:     {Status: 401, Name: "AuthorizationError"},
		protocol.TokenMissing:         {Status: 401, Name: "AuthorizationError"},
		protocol.KeysInvalid:          {Status: 401, Name: "AuthorizationError"},
		protocol.KeysAddressRefused:   {Status: 401, Name: "AuthorizationError"},
		protocol.KeysUnavailable:      {Status: 401, Name: "AuthorizationError"},
		protocol.NoSyncConfig:         {Status: 500, Name: "ServiceError"},
		protocol.TooManyConnections:   {Status: 429, Name: "ServiceError"},
		protocol.LimitExceeded:        {Status: 400, Name: "ServiceError"},
		protocol.SyncConfigInvalid:    {Status: 422, Name: "ServiceError"},
		protocol.NothingToReprocess:   {Status: 422, Name: "ServiceError"},
		protocol.DeployDisabled:       {Status: 422, Name: "ServiceError"},
		protocol.DeployBusy:           {Status: 409, Name: "ServiceError"},
		protocol.BodyNotJSON:          {Status: 400, Name: "FastifyError"},
		protocol.BodyEmpty:            {Status: 400, Name: "FastifyError"},
		protocol.BodyTypeUnsupported:  {Status: 415, Name: "FastifyError"},
		protocol.BodyTooLarge:         {Status: 413, Name: "FastifyError"},
	} {
		if got := protocol.Errorf(code, "x"); got.Status != want.Status || got.Name != want.Name || got.Severity != want.Severity {
			t.Errorf("%s: status %d, name %s, severity %q; want %d, %s, %q", code, got.Status, got.Name, got.Severity, want.Status, want.Name, want.Severity)
		}
	}
	// The codes themselves, which clients and operators know.
	for code, want := range map[protocol.Code]string{
		protocol.BadRequest: "PSYNC_S2001", protocol.RouteNotFound: "PSYNC_S2002", protocol.ShuttingDown: "PSYNC_S2003",
		protocol.MediaTypeUnsupported: "PSYNC_S2004", protocol.Unauthorized: "PSYNC_S2101", protocol.TokenExpired: "PSYNC_S2103",
		protocol.TokenLifetimeTooLong: "PSYNC_S2104", protocol.AudienceMismatch: "PSYNC_S2105", protocol.TokenMissing: "PSYNC_S2106",
		protocol.NoSyncConfig: "PSYNC_S2302", protocol.TooManyConnections: "PSYNC_S2304", protocol.LimitExceeded: "PSYNC_S2305",
	} {
		if string(code) != want {
			t.Errorf("%s, want %s", code, want)
		}
	}
}

// TestLineForms holds the text of every kind of line, with every field that it can
// have, in the order in which clients are used to get them. (The blank after true is
// where false would end.)
func TestLineForms(t *testing.T) {
	entry := protocol.Bucket{Name: "b", Checksum: 1<<32 - 1, Count: 2, Priority: 1, Defaults: []int{0}, Subscriptions: []int{1, 3}}
	for _, c := range []struct {
		line protocol.Line
		want string
	}{
		{&protocol.Checkpoint{LastOpID: 1<<63 - 1}, `{"checkpoint":{"last_op_id":"9223372036854775807","buckets":[],"streams":[]}}`},
		{&protocol.Checkpoint{LastOpID: 7, WriteCheckpoint: 5, Buckets: []protocol.Bucket{entry}, Streams: []protocol.Stream{
			{Name: "a", Default: true, Errors: []protocol.StreamError{{Subscription: protocol.DefaultSubscription, Message: "m"}}},
			{Name: "c", Errors: []protocol.StreamError{{Subscription: 1, Message: "n"}}}}},
			`{"checkpoint":{"last_op_id":"7","write_checkpoint":"5","buckets":[{"bucket":"b","checksum":-1,"count":2,"priority":1,"subscriptions":[{"default":0},{"sub":1},{"sub":3}]}],` +
				`"streams":[{"name":"a","is_default":true,"errors":[{"subscription":"default","message":"m"}]},{"name":"c","is_default":false,"errors":[{"subscription":1,"message":"n"}]}]}}`},
		{&protocol.CheckpointDiff{LastOpID: 8, WriteCheckpoint: 6, RemovedBuckets: []string{"x"}, UpdatedBuckets: []protocol.Bucket{entry}},
			`{"checkpoint_diff":{"last_op_id":"8","write_checkpoint":"6","removed_buckets":["x"],"updated_buckets":[{"bucket":"b","checksum":-1,"count":2,"priority":1,"subscriptions":[{"default":0},{"sub":1},{"sub":3}]}]}}`},
		{&protocol.CheckpointDiff{LastOpID: 8}, `{"checkpoint_diff":{"last_op_id":"8","removed_buckets":[],"updated_buckets":[]}}`},
		{&protocol.DataChunk{Bucket: "b", After: 1, HasMore: true, NextAfter: 5, Ops: []protocol.Op{
			{ID: 2, Kind: protocol.Put, ObjectType: "t", ObjectID: "i", Checksum: 1<<32 - 1, Subkey: []byte("s"), Data: []byte(`{"id":"i"}`)},
			{ID: 3, Kind: protocol.Remove, ObjectType: "t", ObjectID: "i", Checksum: 3, Subkey: []byte("s")},
			{ID: 4, Kind: protocol.Move, Checksum: 4}, {ID: 5, Kind: protocol.Clear, Checksum: 1<<32 - 5}}},
			`{"data":{"bucket":"b","after":"1","has_more":true ,"data":[{"op_id":"2","op":"PUT","object_type":"t","object_id":"i","checksum":4294967295,"subkey":"s","data":"{\"id\":\"i\"}"},` +
				`{"op_id":"3","op":"REMOVE","object_type":"t","object_id":"i","checksum":3,"subkey":"s","data":null},` +
				`{"op_id":"4","op":"MOVE","checksum":4,"data":null},{"op_id":"5","op":"CLEAR","checksum":-5,"data":null}],"next_after":"5"}}`},
		{&protocol.PartialCheckpointComplete{LastOpID: 8, Priority: 2}, `{"partial_checkpoint_complete":{"last_op_id":"8","priority":2}}`},
		{&protocol.CheckpointComplete{LastOpID: 8}, `{"checkpoint_complete":{"last_op_id":"8"}}`},
		{&protocol.TokenExpiresIn{Seconds: 0}, `{"token_expires_in":0}`},
	} {
		if got := string(encode(protocol.JSONLines, c.line)); got != c.want+"\n" {
			t.Errorf("got  %swant %s", got, c.want)
		}
	}
}
