package main

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

const insert = "INSERT INTO greeting (owner, message, author) VALUES ($1, $2, 'load')"

// prepare makes the table that the other verbs use.
func prepare(ctx context.Context, o *options) error {
	pg, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer pg.Close(context.WithoutCancel(ctx))
	for _, statement := range []string{
		`CREATE TABLE IF NOT EXISTS greeting (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner text NOT NULL, message text NOT NULL,
			author text NOT NULL, created_at timestamptz NOT NULL DEFAULT now())`,
		`CREATE TABLE IF NOT EXISTS member (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL, owner text NOT NULL)`,
		`DO $$ BEGIN CREATE PUBLICATION powersync FOR ALL TABLES; EXCEPTION WHEN duplicate_object THEN END $$`,
		fmt.Sprintf(`INSERT INTO greeting (owner, message, author)
			SELECT 'user' || i %% 100, 'hello ' || i || ' ' || md5(i::text), 'load' FROM generate_series(1, %d) i`, o.rows),
		fmt.Sprintf(`INSERT INTO greeting (owner, message, author)
			SELECT 'big', 'hello ' || i || ' ' || md5(i::text), 'load' FROM generate_series(1, %d) i`, o.rows),
	} {
		if _, err := pg.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%.60s…: %w", statement, err)
		}
	}
	return nil
}

// watcher follows one owner's rows and takes the time from each commit's return to
// the completed checkpoint that has it.
type watcher struct {
	pg    *pgx.Conn
	owner string
	crowd *crowd
	n     int

	mu   sync.Mutex
	sent map[string]time.Time
	seen map[string]time.Time
	took durations
}

// watch connects a client of an owner of its own.
func watch(ctx context.Context, o *options) (*watcher, error) {
	w := &watcher{owner: fmt.Sprintf("watch%d", time.Now().UnixNano()), sent: map[string]time.Time{}, seen: map[string]time.Time{}}
	plain := *o
	plain.subject = w.owner
	c, err := plain.client(1 << 20)
	if err != nil {
		return nil, err
	}
	if w.pg, err = o.connect(ctx); err != nil {
		return nil, err
	}
	var pending []string
	w.crowd, err = gather(ctx, []*client{c}, 1, func(_ int, l line) error {
		switch l.kind {
		case "data":
			for b := l.b; ; {
				i := bytes.Index(b, []byte("mark:"))
				if i < 0 {
					break
				}
				end := bytes.IndexByte(b[i:], ';')
				pending = append(pending, string(b[i:i+end]))
				b = b[i+end:]
			}
		case "checkpoint_complete":
			w.see(pending)
			pending = pending[:0]
		}
		return nil
	})
	if err != nil {
		_ = w.pg.Close(ctx)
		return nil, err
	}
	return w, nil
}

// see notes that marks are complete at the client, which may be before the commit
// has returned to us.
func (w *watcher) see(marks []string) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range marks {
		if t, ok := w.sent[m]; ok {
			w.took = append(w.took, now.Sub(t))
			delete(w.sent, m)
		} else {
			w.seen[m] = now
		}
	}
}

// commits makes rate commits a second for d, or until ctx ends.
func (w *watcher) commits(ctx context.Context, rate int, d time.Duration) error {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		w.n++
		mark := fmt.Sprintf("mark:%d", w.n)
		if _, err := w.pg.Exec(context.WithoutCancel(ctx), insert, w.owner, mark+";"); err != nil {
			return err
		}
		now := time.Now()
		w.mu.Lock()
		if _, ok := w.seen[mark]; ok {
			w.took = append(w.took, 0)
			delete(w.seen, mark)
		} else {
			w.sent[mark] = now
		}
		w.mu.Unlock()
	}
	return nil
}

// lost is how long a commit may be on its way.
const lost = 30 * time.Second

// take waits until every commit has arrived, and returns the times.
func (w *watcher) take() string {
	for end := time.Now().Add(lost); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		left := len(w.sent)
		w.mu.Unlock()
		if left == 0 {
			break
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	text := w.took.String()
	if len(w.sent) > 0 {
		text += fmt.Sprintf(", %d LOST", len(w.sent))
	}
	w.took = nil
	return text
}

func (w *watcher) close() {
	w.crowd.leave()
	ctx := context.Background()
	_, _ = w.pg.Exec(ctx, "DELETE FROM greeting WHERE owner = $1", w.owner)
	_ = w.pg.Close(ctx)
}

func latency(ctx context.Context, o *options) error {
	clients, err := makeClients(o)
	if err != nil {
		return err
	}
	idle, err := gather(ctx, clients, connecting, nil)
	if err != nil {
		return err
	}
	defer idle.leave()
	w, err := watch(ctx, o)
	if err != nil {
		return err
	}
	defer w.close()
	ctx, stop := context.WithCancel(ctx)
	var downloads sync.WaitGroup
	var ops atomic.Int64
	defer downloads.Wait()
	defer stop()
	for i := range o.downloads {
		big := *o
		big.subject = "big"
		c, err := big.client(1<<21 + i)
		if err != nil {
			return err
		}
		c.buffer = 64 << 10
		downloads.Go(func() {
			for ctx.Err() == nil {
				err := c.run(ctx, func(l line) error {
					ops.Add(int64(l.ops))
					if l.kind == "checkpoint_complete" {
						return errStop
					}
					return nil
				})
				if err != nil {
					fmt.Println("a download failed:", err)
					return
				}
			}
		})
	}
	start := time.Now()
	if err := w.commits(ctx, o.rate, o.duration); err != nil {
		return err
	}
	took := time.Since(start)
	fmt.Printf("latency %s/%s/%s idle=%d downloads=%d (%.0f ops/s) commits/s=%.0f: %s\n", o.transport, o.codec, o.encoding, len(clients),
		o.downloads, float64(ops.Load())/took.Seconds(), float64(w.n)/took.Seconds(), w.take())
	return nil
}

func fanout(ctx context.Context, o *options) error {
	o.subject = fmt.Sprintf("fanout%d", time.Now().UnixNano())
	clients, err := makeClients(o)
	if err != nil {
		return err
	}
	pg, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx := context.WithoutCancel(ctx)
		_, _ = pg.Exec(ctx, "DELETE FROM greeting WHERE owner = $1", o.subject)
		_ = pg.Close(ctx)
	}()
	var mu sync.Mutex
	var committed time.Time
	var took durations
	all := make(chan struct{})
	has := make([]bool, len(clients))
	g, err := gather(ctx, clients, connecting, func(i int, l line) error {
		switch {
		case l.kind == "data":
			has[i] = true
		case l.kind == "checkpoint_complete" && has[i]:
			now := time.Now()
			has[i] = false
			mu.Lock()
			defer mu.Unlock()
			if took = append(took, max(0, now.Sub(committed))); len(took) == len(clients) {
				close(all)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer g.leave()
	for round := range 3 {
		pause(ctx, 2*time.Second)
		mu.Lock()
		took, all, committed = nil, make(chan struct{}), time.Now()
		mu.Unlock()
		before := o.usage().cpu
		if _, err := pg.Exec(ctx, insert, o.subject, fmt.Sprint("round ", round)); err != nil {
			return err
		}
		mu.Lock()
		committed = time.Now()
		mu.Unlock()
		select {
		case <-all:
		case <-time.After(lost):
		case <-ctx.Done():
		}
		mu.Lock()
		fmt.Printf("fanout %s/%s/%s clients=%d: %v, service cpu %.2f s\n", o.transport, o.codec, o.encoding, len(clients), took, o.usage().cpu-before)
		mu.Unlock()
	}
	return nil
}
