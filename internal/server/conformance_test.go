package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-sync/millrace/internal/auth/keys"
	"github.com/millrace-sync/millrace/internal/conformance"
	"github.com/millrace-sync/millrace/protocol"
)

const conformanceDir = "../streams/testdata/conformance/"

// The recorded cases, through the whole service on a real database: rows come by
// backfill before the steps and by stream after them.
func TestConformance(t *testing.T) {
	cases := conformance.ReadCases(t, conformanceDir+"streams.txt")
	marker := conformance.Case{Name: "marker", Queries: []string{"SELECT * FROM marker"}}
	streams := conformance.Config("", append(slices.Clone(cases), marker))
	legacy := conformance.ReadFile(t, conformanceDir+"legacy.yaml") + "  marker:\n    data:\n      - SELECT * FROM marker\n"
	for _, run := range []struct {
		name, config, before, after string
		legacy                      bool
		postgres                    bool // storage in the database that is replicated from
	}{
		{"streams", streams, "streams-before.json", "streams-after.json", false, false},
		{"legacy", legacy, "legacy-before.json", "legacy-after.json", true, false},
		{"streams with storage in Postgres", streams, "streams-before.json", "streams-after.json", false, true},
	} {
		t.Run(run.name, func(t *testing.T) {
			dsn, conn := database(t, shared.Cluster(t), conformance.ReadFile(t, conformanceDir+"dataset.sql"), "INSERT INTO marker VALUES ('m', 1)")
			in := newInstance(t, dsn)
			if run.postgres {
				in.inPostgres(dsn)
			}
			in.start(run.config)
			check := func(expected string, n int) {
				t.Helper()
				in.untilMarker(run.legacy, n)
				want := conformance.ReadExpected(t, conformanceDir+expected)
				if run.legacy {
					for _, u := range conformance.Users {
						got := in.fetch(u, "")
						if m, ok := got.(map[string]any); ok {
							delete(m, "marker: marker/m")
						}
						in.compare(expected, "", u, want[u], got)
					}
					return
				}
				for _, c := range cases {
					for _, u := range conformance.Users {
						in.compare(expected, c.Name, u, want[c.Name][u], in.fetch(u, c.Name))
					}
				}
			}
			check(run.before, 1)
			// The role that the recording granted to is no part of the steps.
			steps := strings.ReplaceAll(conformance.ReadFile(t, conformanceDir+"steps.sql"), "GRANT SELECT ON logs_2026 TO powersync_role;", "")
			execScript(t, conn, steps)
			check(run.after, 2)
		})
	}
}

func (in *instance) compare(file, name, user string, want, got any) {
	in.t.Helper()
	want, got = conformance.Without(file, name, want), conformance.Without(file, name, got)
	a, _ := json.Marshal(want)
	b, _ := json.Marshal(got)
	var x, y any
	_ = json.Unmarshal(a, &x)
	_ = json.Unmarshal(b, &y)
	if !reflect.DeepEqual(x, y) {
		in.t.Errorf("%s: %s for %s:\n got %s\nwant %s", file, name, user, b, a)
	}
}

// untilMarker waits until the marker has the value n.
func (in *instance) untilMarker(legacy bool, n int) {
	in.t.Helper()
	stream, key := "marker", "marker/m"
	if legacy {
		stream, key = "", "marker: marker/m"
	}
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		got, err := in.ask("u1", stream)
		if err == nil {
			if list, _ := got[key].([]string); slices.Contains(list, fmt.Sprintf(`{"id":"m","n":%d}`, n)) {
				return
			}
		}
		<-time.After(50 * time.Millisecond)
	}
	in.t.Fatalf("the marker never became %d", n)
}

// fetch returns what a user gets of one stream, or by default if stream is empty:
// object type and id, with the definition before it for legacy configs, to the
// distinct texts. A stream that reports an error gives what the recordings have
// for one.
func (in *instance) fetch(user, stream string) any {
	in.t.Helper()
	got, err := in.ask(user, stream)
	if errors.Is(err, errStream) {
		return "error: stream errors"
	}
	if err != nil {
		in.t.Errorf("%s for %s: %v", stream, user, err)
	}
	return got
}

var errStream = errors.New("stream error")

func (in *instance) ask(user, stream string) (map[string]any, error) {
	req := protocol.Request{RawData: true, Parameters: []byte(conformance.Connection), IncludeDefaults: stream == ""}
	if stream != "" {
		req.Subscriptions = []protocol.Subscription{{Stream: stream, Parameters: []byte(conformance.Subscription)}}
	}
	hr, err := http.NewRequestWithContext(in.t.Context(), "POST", in.url+"/sync/stream", bytes.NewReader(req.AppendJSON(nil)))
	if err != nil {
		return nil, err
	}
	var claims map[string]any
	if err := json.Unmarshal(conformance.Claims(user), &claims); err != nil {
		return nil, err
	}
	now := time.Now().Unix()
	claims["aud"], claims["iat"], claims["exp"] = "powersync", now, now+3600
	token, err := keys.Sign(in.key.Private, claims)
	if err != nil {
		return nil, err
	}
	hr.Header.Set("Authorization", "Token "+token)
	hr.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(hr)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	type entry struct{ key, data string }
	entries := map[string]entry{}
	sums, announced := map[string]uint32{}, map[string]uint32{}
	r := protocol.NewReader(resp.Body, protocol.JSONLines, 64<<20)
	for {
		line, err := r.Next()
		if err != nil {
			return nil, err
		}
		switch l := line.(type) {
		case *protocol.Checkpoint:
			for _, b := range l.Buckets {
				announced[b.Name] = b.Checksum
			}
			for _, s := range l.Streams {
				if len(s.Errors) > 0 {
					return nil, fmt.Errorf("%w: %s: %v", errStream, s.Name, s.Errors)
				}
			}
		case *protocol.DataChunk:
			prefix := ""
			if stream == "" {
				_, label, _ := strings.Cut(l.Bucket, "#")
				label, _, _ = strings.Cut(label, "[")
				prefix = label + ": "
			}
			for i := range l.Ops {
				op := &l.Ops[i]
				sums[l.Bucket] += op.Checksum
				key := prefix + op.ObjectType + "/" + op.ObjectID
				id := l.Bucket + key + string(op.Subkey)
				if op.Kind == protocol.Put {
					entries[id] = entry{key, string(op.Data)}
				} else {
					delete(entries, id)
				}
			}
		case *protocol.CheckpointComplete:
			for name, want := range announced {
				if sums[name] != want {
					return nil, fmt.Errorf("bucket %s sums to %d, announced %d", name, sums[name], want)
				}
			}
			out := map[string]any{}
			for _, e := range entries {
				list, _ := out[e.key].([]string)
				if !slices.Contains(list, e.data) {
					list = append(list, e.data)
				}
				slices.Sort(list)
				out[e.key] = list
			}
			return out, nil
		}
	}
}
