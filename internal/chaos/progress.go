//go:build unix

package chaos

import (
	"context"
	"fmt"
	"sync"
)

// Progress counts what has been done. Rounds measure time by it, so that a plan means
// the same on a slow machine. The zero value is ready; it is safe for concurrent use.
type Progress struct {
	mu      sync.Mutex
	count   int
	changed chan struct{} // closed, and forgotten, when count grows
}

// Add counts one more.
func (p *Progress) Add() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// Count returns how many there were.
func (p *Progress) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// Wait waits for n more.
func (p *Progress) Wait(ctx context.Context, n int) error {
	until := p.Count() + n
	for {
		p.mu.Lock()
		if p.count >= until {
			p.mu.Unlock()
			return nil
		}
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for progress: %w", context.Cause(ctx))
		}
	}
}
