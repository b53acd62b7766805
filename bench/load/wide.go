package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// wide measures a session of many buckets, named once by the client and once by
// lookups.
func wide(ctx context.Context, o *options) error {
	pg, err := o.connect(ctx)
	if err != nil {
		return err
	}
	run := fmt.Sprintf("wide%d", time.Now().UnixNano())
	defer func() {
		ctx := context.WithoutCancel(ctx)
		_, _ = pg.Exec(ctx, "DELETE FROM greeting WHERE owner LIKE $1 || '.%'", run)
		_, _ = pg.Exec(ctx, "DELETE FROM member WHERE name = $1", run)
		_ = pg.Close(ctx)
	}()
	if _, err := pg.Exec(ctx, "INSERT INTO member (name, owner) SELECT $1, $1 || '.' || i FROM generate_series(1, $2::int) i", run, o.rows); err != nil {
		return err
	}
	if _, err := pg.Exec(ctx, "INSERT INTO greeting (owner, message, author) SELECT $1 || '.' || i, 'first', 'load' FROM generate_series(1, $2::int) i", run, o.rows); err != nil {
		return err
	}
	pause(ctx, 3*time.Second)
	owners := make([]string, o.rows)
	for i := range owners {
		owners[i] = fmt.Sprintf("%s.%d", run, i+1)
	}
	o.subject = run
	for _, stream := range []string{"named", "joined"} {
		clients, err := makeClients(o)
		if err != nil {
			return err
		}
		for _, c := range clients {
			c.stream, c.parameter = stream, owners
		}
		before := o.usage()
		start := time.Now()
		arrived := make(chan time.Time, 1)
		g, err := gather(ctx, clients[:1], 1, func(_ int, l line) error {
			if l.kind == "checkpoint_complete" {
				select {
				case arrived <- time.Now():
				default:
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		connected, up := time.Since(start), o.usage()
		<-arrived
		var took durations
		for i := range 20 {
			if _, err := pg.Exec(ctx, insert, owners[i], "next"); err != nil {
				g.leave()
				return err
			}
			committed := time.Now()
			select {
			case t := <-arrived:
				took = append(took, max(0, t.Sub(committed)))
			case <-time.After(lost):
			}
			pause(ctx, 50*time.Millisecond)
		}
		fmt.Printf("wide %s buckets=%d connect=%v connect-cpu=%.2fs MB=%.1f one bucket changes: %v\n", stream, o.rows,
			connected.Round(time.Millisecond), up.cpu-before.cpu, float64(o.usage().resident-before.resident)/1e6, took)
		g.leave()
	}
	return nil
}

// writes asks for write checkpoints.
func writes(ctx context.Context, o *options) error {
	transport := &http.Transport{MaxIdleConnsPerHost: o.clients}
	defer transport.CloseIdleConnections()
	web := &http.Client{Transport: transport, Timeout: lost}
	ctx, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	var mu sync.Mutex
	var took durations
	var failure error
	var wg sync.WaitGroup
	before := o.usage().cpu
	start := time.Now()
	for i := range o.clients {
		c, err := o.client(i)
		if err != nil {
			return err
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				t := time.Now()
				err := c.writeCheckpoint(ctx, web)
				mu.Lock()
				if err == nil {
					took = append(took, time.Since(t))
				} else if ctx.Err() == nil {
					failure = err
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	seconds := time.Since(start).Seconds()
	if failure != nil {
		return failure
	}
	fmt.Printf("writes clients=%d requests/s=%.0f: %v, service cpu %.0f%%\n", o.clients, float64(len(took))/seconds, took, (o.usage().cpu-before)*100/seconds)
	return nil
}

func (c *client) writeCheckpoint(ctx context.Context, web *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.o.address+"/write-checkpoint2.json?client_id="+url.QueryEscape(c.name), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Token "+c.token)
	resp, err := web.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, b)
	}
	return err
}
