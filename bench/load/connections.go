package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// connecting bounds the clients that connect at once where that is not what is measured.
const connecting = 50

// crowd is a number of clients that are connected and stay so.
type crowd struct {
	stop    context.CancelFunc
	wg      sync.WaitGroup
	up      atomic.Int64
	failure atomic.Pointer[error]
}

// gather connects clients, at most atOnce of them at a time, and returns when all
// have completed a checkpoint. each hears of every line.
func gather(ctx context.Context, clients []*client, atOnce int, each func(i int, l line) error) (*crowd, error) {
	ctx, stop := context.WithCancel(ctx)
	g := &crowd{stop: stop}
	turns := make(chan struct{}, atOnce)
	ready := make(chan struct{}, len(clients))
	for i, c := range clients {
		turns <- struct{}{}
		g.wg.Go(func() {
			complete := sync.OnceFunc(func() {
				<-turns
				ready <- struct{}{}
			})
			defer complete()
			up := false
			err := c.run(ctx, func(l line) error {
				if each != nil {
					if err := each(i, l); err != nil {
						return err
					}
				}
				if !up && l.kind == "checkpoint_complete" {
					up = true
					g.up.Add(1)
					complete()
				}
				return nil
			})
			if err != nil {
				err = fmt.Errorf("client %d: %w", i, err)
				g.failure.CompareAndSwap(nil, &err)
			}
		})
	}
	for range clients {
		<-ready
	}
	if int(g.up.Load()) < len(clients) {
		defer g.leave()
		err := errors.New("cut off")
		if p := g.failure.Load(); p != nil {
			err = *p
		}
		return nil, fmt.Errorf("%d of %d clients are up; the first that is not: %w", g.up.Load(), len(clients), err)
	}
	return g, nil
}

// leave disconnects all.
func (g *crowd) leave() {
	g.stop()
	g.wg.Wait()
}

// makeClients returns o.clients clients.
func makeClients(o *options) ([]*client, error) {
	list := make([]*client, o.clients)
	for i := range list {
		var err error
		if list[i], err = o.client(i); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// pause waits, for the service to come to rest.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func download(ctx context.Context, o *options) error {
	clients, err := makeClients(o)
	if err != nil {
		return err
	}
	var ops, size atomic.Int64
	start := time.Now()
	before := o.usage().cpu
	var wg sync.WaitGroup
	errs := make([]error, len(clients))
	for i, c := range clients {
		c.buffer = 64 << 10
		wg.Go(func() {
			errs[i] = c.run(ctx, func(l line) error {
				ops.Add(int64(l.ops))
				size.Add(int64(len(l.b)))
				if l.kind == "checkpoint_complete" {
					return errStop
				}
				return nil
			})
		})
	}
	wg.Wait()
	took := time.Since(start).Seconds()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Printf("download %s/%s/%s clients=%d ops=%d MB=%.1f seconds=%.2f ops/s=%.0f", o.transport, o.codec, o.encoding,
		len(clients), ops.Load(), float64(size.Load())/1e6, took, float64(ops.Load())/took)
	if cpu := o.usage().cpu - before; cpu > 0 {
		fmt.Printf(" ops/s-of-service-cpu=%.0f", float64(ops.Load())/cpu)
	}
	fmt.Println()
	return nil
}

func hold(ctx context.Context, o *options) error {
	clients, err := makeClients(o)
	if err != nil {
		return err
	}
	before := o.usage()
	start := time.Now()
	g, err := gather(ctx, clients, connecting, nil)
	if err != nil {
		return err
	}
	defer g.leave()
	took, up := time.Since(start), o.usage()
	pause(ctx, 5*time.Second)
	rest := o.usage()
	pause(ctx, 5*time.Second)
	after := o.usage()
	fmt.Printf("hold %s/%s/%s clients=%d connect=%.2fs connect-cpu=%.2fs (%.2f ms each) KB-each=%.1f idle-cpu=%.1f%%\n", o.transport, o.codec, o.encoding,
		len(clients), took.Seconds(), up.cpu-before.cpu, (up.cpu-before.cpu)*1e3/float64(len(clients)),
		float64(after.resident-before.resident)/1024/float64(len(clients)), (after.cpu-rest.cpu)*100/5)
	return nil
}

// storm lets clients that hold everything lose their connections and come back all
// at once, as after a restart.
func storm(ctx context.Context, o *options) error {
	clients, err := makeClients(o)
	if err != nil {
		return err
	}
	for _, c := range clients {
		c.remember = true
	}
	g, err := gather(ctx, clients, connecting, nil)
	if err != nil {
		return err
	}
	g.leave()
	pause(ctx, 3*time.Second)
	for _, c := range clients {
		c.remember = false
	}
	// One that is connected already, and must not notice.
	w, err := watch(ctx, o)
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.commits(ctx, o.rate, 2*time.Second); err != nil {
		return err
	}
	fmt.Println("storm: another client before:", w.take())
	meanwhile, stop := context.WithCancel(ctx)
	var committing sync.WaitGroup
	var failure error
	committing.Go(func() { failure = w.commits(meanwhile, o.rate, time.Hour) })
	before := o.usage()
	start := time.Now()
	var mu sync.Mutex
	var up durations
	g, err = gather(ctx, clients, len(clients), func(_ int, l line) error {
		if l.kind == "checkpoint_complete" {
			mu.Lock()
			defer mu.Unlock()
			up = append(up, time.Since(start))
		}
		return nil
	})
	stop()
	committing.Wait()
	if err != nil {
		return err
	}
	defer g.leave()
	after := o.usage()
	fmt.Printf("storm %s/%s/%s clients=%d up again: %v\n", o.transport, o.codec, o.encoding, len(clients), up)
	fmt.Printf("storm: service cpu %.2f s (%.2f ms each); another client meanwhile: %v\n", after.cpu-before.cpu,
		(after.cpu-before.cpu)*1e3/float64(len(clients)), w.take())
	return failure
}
