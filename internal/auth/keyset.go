package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/protocol"
)

const (
	// refreshAfter is the age at which a key set is fetched again when it is used.
	refreshAfter = 5 * time.Minute
	// expireAfter is the age at which it is no longer used: a key that its issuer
	// withdrew is good for no longer, even if the issuer cannot be reached.
	expireAfter = time.Hour
	// fetchTimeout bounds one fetch.
	fetchTimeout = 30 * time.Second
	// fetchWait bounds how long a request waits for one.
	fetchWait = 3 * time.Second
	// fetchBurst fetches may follow each other at once, and as many again are allowed
	// per fetchWindow: anybody can send tokens with unknown key ids.
	fetchBurst  = 10
	fetchWindow = time.Minute
)

// fetcher gets the document at a URI, of at most maxKeySet bytes.
type fetcher func(ctx context.Context, uri string) ([]byte, error)

// keySet is one remote key set. It is fetched when a token needs it: at first use,
// when it is old, and when a token names a key that is not in it.
type keySet struct {
	uri    string // without password, for logs
	policy policy
	fetch  func(ctx context.Context) ([]byte, error)
	now    func() time.Time
	log    *slog.Logger

	mu      sync.Mutex
	keys    []*key
	digest  [sha256.Size]byte // of the document that keys are from
	fetched time.Time         // zero before the first success
	// generation counts the documents that differed from the one before.
	generation uint64
	err        error   // of the last fetch
	flight     *flight // the fetch under way, if any
	closed     bool
	// level is how full the leaky bucket of fetches was at leaked.
	level  float64
	leaked time.Time
	wg     sync.WaitGroup
}

// flight is a fetch under way.
type flight struct {
	done   chan struct{} // closed when it is over
	cancel context.CancelFunc
}

// view is a set's keys at one time.
type view struct {
	keys       []*key
	generation uint64
	awaited    bool // they were fetched while the caller waited
}

// current returns the keys to verify with. If it has none that are fresh enough, it
// waits for a fetch until wait is done; if they are getting old it starts one.
func (s *keySet) current(ctx context.Context, wait <-chan struct{}) (view, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	age := s.age()
	if age < refreshAfter {
		return s.view(false), nil
	}
	f := s.start(ctx)
	if age < expireAfter {
		return s.view(false), nil
	}
	s.await(ctx, f, wait)
	if s.age() < expireAfter {
		return s.view(true), nil
	}
	return view{}, s.unavailable(f)
}

// refreshed returns the keys after another fetch, which it awaits until wait is
// done; if that fails, the keys as they are.
func (s *keySet) refreshed(ctx context.Context, wait <-chan struct{}) view {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.await(ctx, s.start(ctx), wait)
	return s.view(true)
}

func (s *keySet) view(awaited bool) view {
	return view{keys: s.keys, generation: s.generation, awaited: awaited}
}

// valid reports whether tokens verified with a generation of the keys still count.
// As a token in use is a use of the set, it starts a fetch if the keys are old.
func (s *keySet) valid(ctx context.Context, generation uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	age := s.age()
	if age >= refreshAfter {
		s.start(ctx)
	}
	return generation == s.generation && age < expireAfter
}

// age returns how old the keys are, at least expireAfter if there are none.
func (s *keySet) age() time.Duration {
	if s.fetched.IsZero() {
		return expireAfter
	}
	return s.now().Sub(s.fetched)
}

// unavailable says why there are no keys. f is the fetch that was waited for.
func (s *keySet) unavailable(f *flight) error {
	switch {
	case s.err != nil:
		return s.err
	case f == nil:
		return protocol.Errorf(protocol.KeysUnavailable, "The token's keys cannot be fetched now: too many attempts failed; try again shortly")
	}
	return protocol.Errorf(protocol.KeysUnavailable, "The token's keys did not arrive within %v; try again shortly", fetchWait)
}

// start returns the fetch under way, or begins one if the rate allows; else nil.
func (s *keySet) start(ctx context.Context) *flight {
	if s.flight != nil || s.closed || !s.allow() {
		return s.flight
	}
	// The fetch serves everyone who needs the keys, so it outlives the request that
	// happens to begin it. Close ends it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	f := &flight{done: make(chan struct{}), cancel: cancel}
	s.flight = f
	s.wg.Go(func() {
		defer cancel()
		keys, digest, err := s.load(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.flight = nil
		s.err = err
		if err == nil {
			if digest != s.digest {
				s.generation++
			}
			s.keys, s.digest, s.fetched = keys, digest, s.now()
		}
		close(f.done)
	})
	return f
}

func (s *keySet) load(ctx context.Context) (keys []*key, digest [sha256.Size]byte, err error) {
	doc, err := s.fetch(ctx)
	var e *protocol.Error
	if err == nil {
		if keys, err = parseKeySet(doc, s.policy); err != nil {
			e = protocol.Errorf(protocol.KeysInvalid, "The token's keys are not a key set; see the service's log")
		}
	} else if !errors.As(err, &e) {
		e = protocol.Errorf(protocol.KeysUnavailable, "The token's keys could not be fetched; see the service's log")
	}
	if err != nil {
		s.log.Warn("fetch of a key set failed", "uri", s.uri, "code", string(e.Code), "cause", err)
		// The error is copied, as it may be in its own cause's chain.
		failed := *e
		failed.Err = err
		return nil, digest, &failed
	}
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.id
	}
	s.log.Debug("fetched a key set", "uri", s.uri, "kids", ids)
	return keys, sha256.Sum256(doc), nil
}

// await waits until f is over, wait is done or the request is. It gives up the lock
// meanwhile.
func (s *keySet) await(ctx context.Context, f *flight, wait <-chan struct{}) {
	if f == nil {
		return
	}
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-f.done:
	case <-wait:
	case <-ctx.Done():
	}
}

// allow takes one fetch from the leaky bucket.
func (s *keySet) allow() bool {
	now := s.now()
	leaked := now.Sub(s.leaked).Seconds() * fetchBurst / fetchWindow.Seconds()
	s.level, s.leaked = max(0, s.level-max(0, leaked)), now
	if s.level+1 > fetchBurst {
		return false
	}
	s.level++
	return true
}

// close ends the fetch under way and waits for it.
func (s *keySet) close() {
	s.mu.Lock()
	s.closed = true
	if s.flight != nil {
		s.flight.cancel()
	}
	s.mu.Unlock()
	s.wg.Wait()
}
