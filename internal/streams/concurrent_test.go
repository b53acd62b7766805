package streams

import (
	"sync"
	"testing"
)

// TestConcurrent evaluates one plan from several goroutines: only the race
// detector can make it fail for the reason that it is there for.
func TestConcurrent(t *testing.T) {
	p := mustCompile(t, typicalStreams)
	table, rows := typicalTable()
	e, _ := p.Bind(table, nil)
	m := newModel(p)
	m.load([]sourceTable{{table, rows}})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var out Output
			mine := &model{plan: p, lookups: m.lookups}
			for _, r := range rows {
				e.Row(r, &out)
				if len(out.Puts) == 0 {
					t.Error("a row is in no bucket")
				}
			}
			set, err := p.Buckets(&Request{Claims: []byte(`{"sub":"user-1"}`), Subscriptions: []Subscription{{Stream: "mine"}, {Stream: "either"}}}, mine, Limits{})
			if err != nil || len(set.Buckets) != 2 {
				t.Errorf("%v, %v", set, err)
			}
		})
	}
	wg.Wait()
}
