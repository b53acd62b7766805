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
	unfit   []unfit
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
	late   <-chan struct{}
	cancel context.CancelFunc
}

// await waits until a flight is over or ctx is, but for nobody longer than fetchWait
// after the flight began: a host that hangs delays those who come first. No flight is
// over.
func (f *flight) await(ctx context.Context) {
	if f == nil {
		return
	}
	select {
	case <-f.done:
	case <-f.late:
	case <-ctx.Done():
	}
}

// view is a set's keys at one time.
type view struct {
	keys       []*key
	unfit      []unfit
	generation uint64
	usable     bool  // keys were fetched, and not too long ago
	err        error // why they are not usable
}

// current returns the keys as they are; if they are getting old it starts a fetch.
func (s *keySet) current(ctx context.Context) view {
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := s.age(); age >= refreshAfter && age < expireAfter {
		s.start(ctx)
	}
	return s.look()
}

// refresh returns the fetch under way, or begins one if the rate allows; else nil.
func (s *keySet) refresh(ctx context.Context) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.start(ctx)
}

// view returns the keys as they are.
func (s *keySet) view() view {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.look()
}

func (s *keySet) look() view {
	v := view{keys: s.keys, unfit: s.unfit, generation: s.generation, usable: s.age() < expireAfter}
	if !v.usable {
		v.err = s.unavailable()
	}
	return v
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

// unavailable says why there are no keys.
func (s *keySet) unavailable() error {
	switch {
	case s.err != nil:
		return s.err
	case s.flight == nil:
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
	late, punctual := context.WithTimeout(ctx, fetchWait)
	f := &flight{done: make(chan struct{}), late: late.Done(), cancel: cancel}
	s.flight = f
	s.wg.Go(func() {
		defer cancel()
		defer punctual()
		loaded, err := s.load(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.flight = nil
		s.err = err
		if err == nil {
			if loaded.digest != s.digest {
				s.generation++
				s.warn(loaded.unfit)
			}
			s.keys, s.unfit, s.digest, s.fetched = loaded.keys, loaded.unfit, loaded.digest, s.now()
		}
		close(f.done)
	})
	return f
}

// loaded is what one fetch brought.
type loaded struct {
	keys   []*key
	unfit  []unfit
	digest [sha256.Size]byte
}

func (s *keySet) load(ctx context.Context) (l loaded, err error) {
	doc, err := s.fetch(ctx)
	var e *protocol.Error
	if err == nil {
		if l.keys, l.unfit, err = parseKeySet(doc, s.policy); err != nil {
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
		return loaded{}, &failed
	}
	ids := make([]string, len(l.keys))
	for i, k := range l.keys {
		ids[i] = k.id
	}
	s.log.Debug("fetched a key set", "uri", s.uri, "kids", ids)
	l.digest = sha256.Sum256(doc)
	return l, nil
}

// warn tells of keys that a new document has and that are of no use.
func (s *keySet) warn(list []unfit) {
	for _, u := range list {
		s.log.Warn("a key of a key set cannot be used: tokens signed with it are refused", "uri", s.uri, "kid", shorten(u.id), "reason", u.why)
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
