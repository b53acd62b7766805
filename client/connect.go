package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/millrace-sync/millrace/client/internal/engine"
	"github.com/millrace-sync/millrace/client/internal/local"
)

// Connector is what an app supplies: who it is, and how its writes reach the backend.
// Its methods are called from the database's goroutines, never two at once of the same.
type Connector interface {
	// FetchCredentials returns where to sync and as whom. It is called when there
	// are no credentials, when the service refused them, and shortly before they
	// expire; [ErrSignedOut], like any other error, is shown in the status and asked again.
	FetchCredentials(ctx context.Context) (Credentials, error)
	// UploadData sends what the upload queue holds ([DB.NextTransaction] and its
	// like) to the backend and completes it. It is called until the queue is empty;
	// after an error again, when the retry delay has passed, or longer if the error has
	// a method RetryAfter() time.Duration that says so.
	UploadData(ctx context.Context, db *DB) error
}

// Credentials says where to sync, and as whom.
type Credentials struct {
	Endpoint string // the service's URL
	Token    string // a JWT
}

// ErrSignedOut is for connectors that have no credentials at the moment.
var ErrSignedOut = errors.New("nobody is signed in")

// ConnectOptions sets what most apps leave as it is.
type ConnectOptions struct {
	// Parameters are the connection parameters that streams may read.
	Parameters map[string]any
	// AppMetadata goes to the service's log.
	AppMetadata map[string]string
	// NoDefaultStreams leaves out the streams that the service sends to everybody.
	NoDefaultStreams bool
	// RetryDelay is the time between attempts, ±10 %; 0 means 5 s.
	RetryDelay time.Duration
	// UploadThrottle is the least time between uploads, so that writes in quick
	// succession travel together; 0 means 1 s.
	UploadThrottle time.Duration
	// CheckpointRequests has this client number its write checkpoints itself, which
	// [DB.WaitForCheckpoint] and a [CheckpointPoster] need. Services before 1.24 do not know it.
	CheckpointRequests bool
	// Client makes the requests; nil is a client of the connection's own. It must
	// not limit the time of a whole response.
	Client *http.Client
	// Header is added to each request.
	Header http.Header
}

const (
	defaultRetryDelay     = 5 * time.Second
	defaultUploadThrottle = time.Second
)

// connection is what runs between Connect and Disconnect: a download loop and an
// upload loop, which end with ctx.
type connection struct {
	db        *DB
	connector Connector
	opts      ConnectOptions
	params    []byte
	client    *http.Client

	cancel context.CancelFunc
	wg     sync.WaitGroup

	// mu guards the credentials. A fetch happens under fetching.
	mu        sync.Mutex
	creds     *Credentials
	fetchedAt time.Time
	fetching  chan struct{} // holds one element while someone fetches

	// seeding is held while the service is asked for the newest number of a checkpoint; seeded
	// says that it has told it.
	seeding sync.Mutex
	seeded  bool

	events events
	// online wakes the upload loop when a connection stands.
	online chan struct{}
}

// Connect syncs in the background until [DB.Disconnect] or [DB.Close]. It returns at
// once; the status tells how it goes. A second call replaces the first.
func (d *DB) Connect(connector Connector, opts *ConnectOptions) error {
	o := ConnectOptions{}
	if opts != nil {
		o = *opts
	}
	if o.RetryDelay < 0 || o.UploadThrottle < 0 {
		return errors.New("connect: RetryDelay and UploadThrottle cannot be negative")
	}
	o.RetryDelay = orDefault(o.RetryDelay, defaultRetryDelay)
	o.UploadThrottle = orDefault(o.UploadThrottle, defaultUploadThrottle)
	if o.Parameters == nil {
		o.Parameters = map[string]any{}
	}
	params, err := json.Marshal(o.Parameters)
	if err != nil {
		return fmt.Errorf("connect: Parameters: %w", err)
	}
	d.connecting.Lock()
	defer d.connecting.Unlock()
	d.disconnect()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("connect: %w", ErrClosed)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &connection{
		db: d, connector: connector, opts: o, params: params, client: o.Client, cancel: cancel,
		fetching: make(chan struct{}, 1), online: make(chan struct{}, 1),
	}
	c.events.ready = make(chan struct{}, 1)
	if c.client == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.ResponseHeaderTimeout = headerTimeout
		c.client = &http.Client{Transport: transport}
	}
	d.connection = c
	c.wg.Go(func() { c.download(ctx) })
	c.wg.Go(func() { c.upload(ctx) })
	return nil
}

// Disconnect stops syncing and waits until it has stopped. The data stays.
func (d *DB) Disconnect() {
	d.connecting.Lock()
	defer d.connecting.Unlock()
	d.disconnect()
}

// disconnect needs d.connecting.
func (d *DB) disconnect() {
	d.mu.Lock()
	c := d.connection
	d.connection = nil
	d.mu.Unlock()
	if c == nil {
		return
	}
	c.cancel()
	c.wg.Wait()
	if c.opts.Client == nil {
		c.client.CloseIdleConnections()
	}
	d.board.update(func(s *Status) {
		s.Connected, s.Connecting, s.Uploading, s.Download, s.applied = false, false, false, nil, 0
	})
}

// Clear says what [DB.DisconnectAndClear] removes besides synced rows and the upload queue.
type Clear struct {
	// Local removes the rows of local-only tables too.
	Local bool
	// Soft keeps what was downloaded, out of sight: if the next user may see the
	// same, it need not be downloaded again. Choose it only where a file may hold
	// rows that its user may not see.
	Soft bool
}

// DisconnectAndClear is for signing out: it disconnects and removes the synced rows,
// the upload queue and the subscriptions.
func (d *DB) DisconnectAndClear(ctx context.Context, what Clear) error {
	d.connecting.Lock()
	defer d.connecting.Unlock()
	d.disconnect()
	d.mu.Lock()
	schema := d.schema
	d.mu.Unlock()
	err := d.exclusive(ctx, func(c *local.Conn) error { return clearAll(c, &schema, what) })
	if err != nil {
		return fmt.Errorf("clear the database: %w", err)
	}
	d.board.update(func(s *Status) {
		*s = Status{}
	})
	return nil
}

func clearAll(c *local.Conn, schema *Schema, what Clear) error {
	sql := `DELETE FROM ps_oplog; DELETE FROM ps_buckets;`
	if what.Soft {
		sql = `UPDATE ps_buckets SET last_applied_op = 0;`
	}
	if err := c.Exec(sql + `
DELETE FROM ps_crud;
DELETE FROM ps_untyped;
DELETE FROM ps_updated_rows;
DELETE FROM ps_kv WHERE key != 'client_id';
DELETE FROM ps_stream_subscriptions;
DELETE FROM ps_sync_state`); err != nil {
		return err
	}
	pattern := prefixSynced + "*"
	if what.Local {
		pattern = "ps_data_*"
	}
	tables, err := strings2(c.Conn, `SELECT name, '' FROM sqlite_master WHERE type = 'table' AND name GLOB '`+pattern+`'`)
	if err != nil {
		return err
	}
	for table := range tables {
		if err := c.Exec(`DELETE FROM ` + quoteID(table)); err != nil {
			return err
		}
	}
	c.Syncing(true)
	defer c.Syncing(false)
	for _, r := range schema.RawTables {
		if err := r.clear(c); err != nil {
			return fmt.Errorf("raw table %s: %w", r.Name, err)
		}
	}
	return nil
}

// events are what the download loop has to react to besides lines. Each is a flag:
// more of one kind are as good as one.
type events struct {
	mu    sync.Mutex
	flags eventFlags
	ready chan struct{}
}

type eventFlags struct{ uploaded, subscribed, refreshed bool }

func (e *events) raise(set func(*eventFlags)) {
	e.mu.Lock()
	set(&e.flags)
	e.mu.Unlock()
	wake(e.ready)
}

func (e *events) take() eventFlags {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.flags
	e.flags = eventFlags{}
	return f
}

// wake leaves a token in a channel of capacity 1.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// credentials returns those at hand, or asks for them.
func (c *connection) credentials(ctx context.Context) (Credentials, error) {
	c.mu.Lock()
	creds := c.creds
	c.mu.Unlock()
	if creds != nil {
		return *creds, nil
	}
	return c.fetchCredentials(ctx)
}

// fetchCredentials asks the connector, which is asked by one at a time.
func (c *connection) fetchCredentials(ctx context.Context) (Credentials, error) {
	select {
	case c.fetching <- struct{}{}:
	case <-ctx.Done():
		return Credentials{}, ctx.Err()
	}
	defer func() { <-c.fetching }()
	creds, err := c.connector.FetchCredentials(ctx)
	if err == nil && (creds.Endpoint == "" || creds.Token == "") {
		err = errors.New("the connector returned no endpoint or no token; return ErrSignedOut if there is none")
	}
	if err != nil {
		return Credentials{}, fmt.Errorf("fetch credentials: %w", err)
	}
	c.mu.Lock()
	c.creds, c.fetchedAt = &creds, time.Now()
	c.mu.Unlock()
	return creds, nil
}

// dropCredentials forgets credentials that no longer hold, unless there are others by now.
func (c *connection) dropCredentials(bad string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.creds != nil && c.creds.Token == bad {
		c.creds = nil
	}
}

// pause waits for the retry delay, or longer if the service said so.
func (c *connection) pause(ctx context.Context, atLeast time.Duration) {
	delay := c.opts.RetryDelay
	delay += time.Duration((rand.Float64()*0.2 - 0.1) * float64(delay))
	sleep(ctx, max(delay, atLeast))
}

// sleep returns early when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// notes writes down what the engine has noted.
func (c *connection) notes(o *engine.Outcome) {
	for _, n := range o.Notes {
		if n.Warning {
			c.db.log.Warn("sync: " + n.Text)
		} else {
			c.db.log.Debug("sync: " + n.Text)
		}
	}
}
