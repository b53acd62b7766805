package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Check is one promise of the guide. Run proves it on a running stack and
// returns what it saw, in a sentence.
type Check struct {
	Name string
	Run  func(ctx context.Context, s *Stack, scratch string) (seen string, err error)
}

// Checks returns the guide's checks, in its order. Each needs the whole stack
// running, leaves it so, and keeps its clients' databases in scratch.
func Checks() []Check {
	return []Check{
		{"an UPDATE in Postgres shows in the client", checkUpdate},
		{"a delete in the client reaches Postgres, and its checkpoint completes", checkDelete},
		{"with the backend stopped the client deletes at once, and the write arrives later", checkOffline},
	}
}

// checkTimeout bounds one check.
const checkTimeout = 60 * time.Second

// RunAll runs the checks, and reports each before it goes on.
func (s *Stack) RunAll(ctx context.Context, scratch string, report func(c Check, seen string, took time.Duration, err error)) error {
	var errs []error
	for _, c := range Checks() {
		start := time.Now()
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		seen, err := c.Run(ctx, s, scratch)
		cancel()
		report(c, seen, time.Since(start), err)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.Name, err))
		}
	}
	return errors.Join(errs...)
}

// scene is what each check begins with: a user with a few greetings in Postgres,
// and that user's client, which shows them.
type scene struct {
	user   string
	db     *pgx.Conn
	client *Terminal
}

func (s *Stack) open(ctx context.Context, user, scratch string) (*scene, error) {
	db, err := s.Connect(ctx)
	if err != nil {
		return nil, err
	}
	c := &scene{user: user, db: db}
	// The rows of earlier checks; others are the user's own.
	if _, err := db.Exec(ctx, "DELETE FROM greeting WHERE owner = $1 AND author = 'check'", user); err != nil {
		return nil, errors.Join(err, c.close())
	}
	if err := c.insert(ctx, "Hello", "Good morning", "How do you do"); err != nil {
		return nil, errors.Join(err, c.close())
	}
	if c.client, err = s.StartTerminal(user, filepath.Join(scratch, user+".db")); err != nil {
		return nil, errors.Join(err, c.close())
	}
	if err := c.equal(ctx); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *scene) close() error {
	var err error
	if c.client != nil {
		err = c.client.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(err, c.db.Close(ctx))
}

func (c *scene) insert(ctx context.Context, messages ...string) error {
	_, err := c.db.Exec(ctx, "INSERT INTO greeting (owner, message, author) SELECT $1, m, 'check' FROM unnest($2::text[]) m", c.user, messages)
	return err
}

// table returns the user's rows in Postgres.
func (c *scene) table(ctx context.Context) (map[string]Note, error) {
	rows, err := c.db.Query(ctx, "SELECT id::text, owner, message FROM greeting WHERE owner = $1", c.user)
	if err != nil {
		return nil, err
	}
	notes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Note])
	byID := make(map[string]Note, len(notes))
	for _, n := range notes {
		byID[n.ID] = n
	}
	return byID, err
}

// equal waits until the client shows just the user's rows in Postgres, which must
// not change meanwhile.
func (c *scene) equal(ctx context.Context) error {
	want, err := c.table(ctx)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("it has synced the %d rows of %s", len(want), c.user)
	return c.client.Wait(ctx, what, func(v View) bool { return v.Status.Synced && maps.Equal(v.Notes, want) })
}

// remove deletes one note in the client, and returns its id.
func (c *scene) remove(ctx context.Context) (id string, err error) {
	notes, err := c.client.List(ctx)
	if err != nil {
		return "", err
	}
	if len(notes) == 0 {
		return "", errors.New("the client has no note to delete")
	}
	id = slices.Min(slices.Collect(maps.Keys(notes)))
	return id, c.client.Delete(ctx, id)
}

// gone waits until a row is no longer in Postgres.
func (c *scene) gone(ctx context.Context, id string) error {
	return poll(ctx, "row "+id+" is gone in Postgres", func() (bool, error) {
		there, err := c.exists(ctx, id)
		return !there, err
	})
}

func (c *scene) exists(ctx context.Context, id string) (there bool, err error) {
	err = c.db.QueryRow(ctx, "SELECT EXISTS (SELECT FROM greeting WHERE id = $1::text::uuid)", id).Scan(&there)
	return there, err
}

// confirmed waits until the client has heard back of all its writes, and then has
// just the rows of Postgres.
func (c *scene) confirmed(ctx context.Context) (State, error) {
	var state State
	err := poll(ctx, "the client's write checkpoint is complete", func() (ok bool, err error) {
		state, err = c.client.State(ctx)
		return state.Confirmed, err
	})
	if err != nil {
		return state, fmt.Errorf("%w (%d writes queued, checkpoint %s of %s)", err, state.Queued, state.Applied, state.Target)
	}
	want, err := c.table(ctx)
	if err != nil {
		return state, err
	}
	// Not a wait: a row that comes back once the checkpoint is complete is a fault.
	got, err := c.client.List(ctx)
	if err == nil && !maps.Equal(got, want) {
		err = fmt.Errorf("with its checkpoint complete the client holds %d rows, which are not the %d of Postgres", len(got), len(want))
	}
	return state, err
}

func checkUpdate(ctx context.Context, s *Stack, scratch string) (seen string, err error) {
	c, err := s.open(ctx, "ann", scratch)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	// Rows of an earlier run may be in upper case already.
	if err := c.insert(ctx, "see me change"); err != nil {
		return "", err
	}
	if err := c.equal(ctx); err != nil {
		return "", err
	}

	start := time.Now()
	if _, err := c.db.Exec(ctx, "UPDATE greeting SET message = upper(message)"); err != nil {
		return "", err
	}
	var shown int
	err = c.client.Wait(ctx, "every message is in upper case", func(v View) bool {
		shown = len(v.Notes)
		for _, n := range v.Notes {
			if n.Message != strings.ToUpper(n.Message) {
				return false
			}
		}
		return true
	})
	took := time.Since(start)
	if err == nil {
		err = c.equal(ctx)
	}
	return fmt.Sprintf("%d greetings in upper case %d ms after the UPDATE was sent", shown, took.Milliseconds()), err
}

func checkDelete(ctx context.Context, s *Stack, scratch string) (seen string, err error) {
	c, err := s.open(ctx, "ann", scratch)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.close()) }()

	id, err := c.remove(ctx)
	if err != nil {
		return "", err
	}
	if err := c.gone(ctx, id); err != nil {
		return "", err
	}
	state, err := c.confirmed(ctx)
	return fmt.Sprintf("row %s is gone in Postgres; write checkpoint %s of the client is complete, nothing is queued", id, state.Target), err
}

func checkOffline(ctx context.Context, s *Stack, scratch string) (seen string, err error) {
	c, err := s.open(ctx, "ann", scratch)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.close()) }()

	if err := s.StopBackend(); err != nil {
		return "", err
	}
	// The stack must be left running, whatever happens.
	defer func() {
		if s.Backend == nil {
			err = errors.Join(err, s.StartBackend(ctx))
		}
	}()
	start := time.Now()
	id, err := c.remove(ctx)
	if err != nil {
		return "", err
	}
	local := time.Since(start)
	notes, err := c.client.List(ctx)
	if err != nil {
		return "", err
	}
	if _, there := notes[id]; there {
		return "", fmt.Errorf("row %s is still in the client after its delete", id)
	}
	if err := c.client.Wait(ctx, "it reports that the upload failed", func(v View) bool { return v.Status.UploadError != nil }); err != nil {
		return "", err
	}
	there, err := c.exists(ctx, id)
	if err != nil {
		return "", err
	}
	if !there {
		return "", fmt.Errorf("row %s is gone in Postgres, with no backend to delete it", id)
	}

	if err := s.StartBackend(ctx); err != nil {
		return "", err
	}
	if err := c.gone(ctx, id); err != nil {
		return "", err
	}
	if _, err := c.confirmed(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("deleted in the client in %d ms without a backend; gone in Postgres once it was back", local.Milliseconds()), nil
}
