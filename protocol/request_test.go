package protocol_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/millrace-sync/millrace/protocol"
)

type requestCase struct{ body, want string }

func requestCases(tb testing.TB) (cases []requestCase) {
	tb.Helper()
	text, err := os.ReadFile("testdata/requests.txt")
	if err != nil {
		tb.Fatal(err)
	}
	for _, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n")[1:] {
		body, want, ok := strings.Cut(block, "\n")
		if !ok {
			tb.Fatalf("a case without outcome: %q", block)
		}
		cases = append(cases, requestCase{body, want})
	}
	return cases
}

func TestRequestCases(t *testing.T) {
	for _, c := range requestCases(t) {
		_, err := protocol.DecodeRequest([]byte(c.body))
		got := "ok"
		var e *protocol.Error
		switch {
		case errors.As(err, &e) && e.Code == protocol.BadRequest:
			got = e.Details
			if e.Status != 400 || e.Name != "ValidationError" {
				t.Errorf("%s: status %d, name %s", c.body, e.Status, e.Name)
			}
		case errors.As(err, &e):
			got = string(e.Code)
		case err != nil:
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.body, got, c.want)
		}
	}
}

func TestWorkedRequest(t *testing.T) {
	body, err := os.ReadFile("testdata/request.json")
	if err != nil {
		t.Fatal(err)
	}
	two := 2
	want := &protocol.Request{
		RawData: true, ClientID: "d1e3babb-56d4-4675-b0b2-caaeac2a9696", Parameters: []byte(`{"p1":"v"}`),
		AppMetadata: map[string]string{"app": "lab"}, IncludeDefaults: true,
		Subscriptions: []protocol.Subscription{{Stream: "list_items", Parameters: []byte(`{"list":"L1"}`), Priority: &two}},
	}
	got, err := protocol.DecodeRequest(body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	again, err := protocol.DecodeRequest(got.AppendJSON(nil))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, again, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("written and decoded (-want +got):\n%s", diff)
	}

	// Sockets may carry the same as BSON.
	var doc bson.D
	if err := bson.UnmarshalExtJSON(body, false, &doc); err != nil {
		t.Fatal(err)
	}
	raw, err := bson.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	text, err := protocol.JSONFromBSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got, err = protocol.DecodeRequest(text); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("decoded from BSON (-want +got):\n%s", diff)
	}
}

func TestRequestDefaults(t *testing.T) {
	r, err := protocol.DecodeRequest([]byte("\xef\xbb\xbf {} \n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&protocol.Request{IncludeDefaults: true}, r); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := protocol.DecodeRequest(nil); !errors.Is(err, protocol.BodyEmpty) {
		t.Errorf("an empty body: %v", err)
	}
}

func TestRequestTakesTheLastOfEqualKeys(t *testing.T) {
	r, err := protocol.DecodeRequest([]byte(`{"buckets":[{"name":"a","after":"1"}],"buckets":[{"name":"b","name":"c","after":"2"}],"client_id":"x","client_id":"y"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &protocol.Request{IncludeDefaults: true, ClientID: "y", Buckets: []protocol.BucketPosition{{Name: "c", After: 2}}}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRequestRepairsUTF8(t *testing.T) {
	r, err := protocol.DecodeRequest([]byte("{\"client_id\":\"a\xff\\ud800b\",\"parameters\":{\"k\":\"\xc3\"}}"))
	if err != nil {
		t.Fatal(err)
	}
	if r.ClientID != "a\uFFFD\uFFFDb" || string(r.Parameters) != "{\"k\":\"\uFFFD\"}" {
		t.Errorf("got %q, %q", r.ClientID, r.Parameters)
	}
}

func TestDepthIsBounded(t *testing.T) {
	deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	if _, err := protocol.DecodeRequest([]byte(`{"parameters":` + deep(protocol.MaxDepth-1) + "}")); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	_, err := protocol.DecodeRequest([]byte(`{"parameters":` + deep(protocol.MaxDepth) + "}"))
	if !errors.Is(err, protocol.BadRequest) {
		t.Errorf("beyond the limit: %v", err)
	}
	if _, err := protocol.DecodeRequest([]byte(strings.Repeat("[", 1<<20))); !errors.Is(err, protocol.BadRequest) {
		t.Errorf("far beyond the limit: %v", err)
	}
	doc := any(bson.D{})
	for range protocol.MaxDepth {
		doc = bson.D{{Key: "a", Value: doc}}
	}
	raw, err := bson.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := protocol.JSONFromBSON(raw); !errors.Is(err, protocol.BadRequest) {
		t.Errorf("BSON beyond the limit: %v", err)
	}
}

func TestJSONFromBSON(t *testing.T) {
	raw, err := bson.Marshal(bson.D{
		{Key: "s", Value: "a\"b"}, {Key: "i", Value: int32(-1)}, {Key: "l", Value: int64(1) << 60}, {Key: "d", Value: 2.0},
		{Key: "f", Value: 1.5}, {Key: "u", Value: bson.Undefined{}}, {Key: "n", Value: nil}, {Key: "t", Value: true},
		{Key: "a", Value: bson.A{"x", bson.D{}, bson.A{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := protocol.JSONFromBSON(raw)
	if want := `{"s":"a\"b","i":-1,"l":1152921504606846976,"d":2,"f":1.5,"n":null,"t":true,"a":["x",{},[]]}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
	raw, err = bson.Marshal(bson.D{{Key: "id", Value: bson.NewObjectID()}})
	if err != nil {
		t.Fatal(err)
	}
	var e *protocol.Error
	if _, err := protocol.JSONFromBSON(raw); !errors.As(err, &e) || !strings.Contains(e.Details, "id") {
		t.Errorf("an object id: %v", err)
	}
}

func TestCheckpointRequest(t *testing.T) {
	for body, want := range map[string]uint64{
		`{"client_id":"c","checkpoint_request_id":"5"}`:                   5,
		`{"client_id":"c","checkpoint_request_id":5}`:                     5,
		`{"client_id":"c","checkpoint_request_id":5.0,"x":1}`:             5,
		`{"client_id":"c","checkpoint_request_id":9007199254740991}`:      1<<53 - 1,
		`{"client_id":"c","checkpoint_request_id":"9223372036854775807"}`: 1<<63 - 1,
	} {
		r, err := protocol.DecodeCheckpointRequest([]byte(body))
		if err != nil || r.ID != want || r.ClientID != "c" {
			t.Errorf("%s: %+v, %v", body, r, err)
			continue
		}
		if again, err := protocol.DecodeCheckpointRequest(r.AppendJSON(nil)); err != nil || *again != *r {
			t.Errorf("%s written: %+v, %v", body, again, err)
		}
	}
	for _, bad := range []string{
		`{}`, `{"client_id":"c"}`, `{"checkpoint_request_id":"1"}`, `{"client_id":1,"checkpoint_request_id":"1"}`,
		`{"client_id":"c","checkpoint_request_id":0}`, `{"client_id":"c","checkpoint_request_id":"0"}`,
		`{"client_id":"c","checkpoint_request_id":9007199254740992}`, `{"client_id":"c","checkpoint_request_id":"9223372036854775808"}`,
		`{"client_id":"c","checkpoint_request_id":-1}`, `{"client_id":"c","checkpoint_request_id":1.5}`,
		`{"client_id":"c","checkpoint_request_id":null}`, `{"client_id":"c","checkpoint_request_id":"x"}`,
	} {
		if _, err := protocol.DecodeCheckpointRequest([]byte(bad)); !errors.Is(err, protocol.BadRequest) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestWriteCheckpointAnswers(t *testing.T) {
	body := protocol.AppendWriteCheckpoint(nil, 12)
	if want := `{"data":{"write_checkpoint":"12"}}`; string(body) != want {
		t.Errorf("got %s, want %s", body, want)
	}
	if id, err := protocol.DecodeWriteCheckpoint(body); err != nil || id != 12 {
		t.Errorf("read %d, %v", id, err)
	}
	body = protocol.AppendCheckpointRequested(nil, 5)
	if want := `{"data":{"checkpoint_request_id":"5"}}`; string(body) != want {
		t.Errorf("got %s, want %s", body, want)
	}
	if id, err := protocol.DecodeWriteCheckpoint(body); err != nil || id != 5 {
		t.Errorf("read %d, %v", id, err)
	}
	for _, bad := range []string{``, `{}`, `{"data":{"write_checkpoint":"0"}}`, `{"data":{"write_checkpoint":1}}`, `<html>`} {
		if _, err := protocol.DecodeWriteCheckpoint([]byte(bad)); err == nil {
			t.Errorf("%q gave no error", bad)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	for _, c := range requestCases(f) {
		f.Add([]byte(c.body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := protocol.DecodeRequest(body)
		if err != nil {
			var e *protocol.Error
			if !errors.As(err, &e) || e.Status >= 500 {
				t.Fatalf("%v", err)
			}
			if e.Code == protocol.BodyNotJSON && json.Valid(body) {
				t.Fatalf("refused valid JSON: %v", err)
			}
			return
		}
		if body := bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")); !json.Valid(body) {
			t.Fatal("accepted what is not JSON")
		}
		if r.Parameters != nil && !json.Valid(r.Parameters) {
			t.Fatalf("parameters are not JSON: %q", r.Parameters)
		}
		again, err := protocol.DecodeRequest(r.AppendJSON(nil))
		if err != nil {
			t.Fatal(err)
		}
		empty := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Parameters" },
			cmp.Comparer(func(a, b []byte) bool { return string(orEmpty(a)) == string(orEmpty(b)) }))
		if diff := cmp.Diff(r, again, cmpopts.EquateEmpty(), empty); diff != "" {
			t.Fatalf("written and read (-want +got):\n%s", diff)
		}
	})
}

func orEmpty(raw []byte) []byte {
	if len(raw) == 0 {
		return []byte("{}")
	}
	return raw
}

func FuzzJSONFromBSON(f *testing.F) {
	for _, line := range goldenLines(f) {
		l, err := protocol.JSONLines.DecodeLine(line)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encode(protocol.BSON, l))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		text, err := protocol.JSONFromBSON(doc)
		if err != nil {
			if !errors.Is(err, protocol.BadRequest) {
				t.Fatal(err)
			}
			return
		}
		if !json.Valid(text) {
			t.Fatalf("not JSON: %q", text)
		}
	})
}
