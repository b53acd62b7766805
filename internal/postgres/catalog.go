package postgres

import (
	"context"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
	"github.com/millrace-sync/millrace/internal/source"
)

// catalog describes the tables that the stream names: what a Relation message
// leaves out it asks the server, over a connection of its own that it opens when
// it is first needed. It belongs to one goroutine.
//
// The answers are those of now, the message is of the past. They are used only for
// what a later message would correct: the root of a partition, the primary key of
// a table with REPLICA IDENTITY FULL, how a type is made up, and which heap the rows
// are in, and how they are published: rows that are read because either is another are
// read later still.
type catalog struct {
	config   Config
	registry *pgtypes.Registry
	conn     *pgconn.PgConn // nil until needed, and after a failure

	builtin *pgtypes.Registry // knows the built-in types only
}

func newCatalog(c Config, registry *pgtypes.Registry) *catalog {
	return &catalog{config: c, registry: registry, builtin: pgtypes.NewRegistry()}
}

// close ends the connection.
func (c *catalog) close(ctx context.Context) {
	if c.conn != nil {
		c.conn.Close(ctx)
		c.conn = nil
	}
}

// table describes a table; see describeFunc. A connection that broke while it was
// not needed is opened again.
func (c *catalog) table(ctx context.Context, rel relation) (t *source.Table, err error) {
	kept := c.conn != nil
	t, err = c.ask(ctx, rel)
	if kept && errors.Is(err, ErrTransient) {
		t, err = c.ask(ctx, rel)
	}
	return t, err
}

func (c *catalog) ask(ctx context.Context, rel relation) (t *source.Table, err error) {
	if c.conn == nil {
		if c.conn, err = connect(ctx, c.config, false); err != nil {
			c.conn = nil
			return nil, failed("describe a table of the stream", err)
		}
	}
	defer func() {
		if err != nil {
			c.close(ctx)
		}
	}()
	oids := make([]uint32, len(rel.columns))
	for i := range rel.columns {
		oids[i] = rel.columns[i].typ
	}
	// Also those that are known: ALTER TYPE may have changed them.
	if err := learnTypes(ctx, c.conn, c.registry, c.builtin.Missing(oids)); err != nil {
		return nil, err
	}
	list, err := describe(ctx, c.conn, "describe a table of the stream", leafSQL, c.config.Publication, strconv.FormatUint(uint64(rel.oid), 10))
	if err != nil {
		return nil, err
	}
	t = rel.table(c.registry)
	var primary []string
	if len(list) > 0 { // else it was dropped since
		t.RootSchema, t.RootName, t.Heap, t.Published = list[0].RootSchema, list[0].RootName, list[0].Heap, list[0].PublishedAs
		primary = rel.covered(list[0].primaryNames())
	}
	if t.Identity == source.IdentityFull || t.Identity == source.IdentityNothing {
		var key func(string) bool
		t.Identity, key = wholeIdentity(t.Identity, primary)
		for i := range t.Columns {
			t.Columns[i].Key = key(t.Columns[i].Name)
		}
	}
	return t, nil
}

// covered returns names if the stream sends all those columns, else nil.
func (rel *relation) covered(names []string) []string {
	has := make(map[string]bool, len(rel.columns))
	for i := range rel.columns {
		has[rel.columns[i].name] = true
	}
	for _, n := range names {
		if !has[n] {
			return nil
		}
	}
	return names
}

// table makes a table of what the message says.
func (rel *relation) table(registry *pgtypes.Registry) *source.Table {
	t := &source.Table{
		ID: source.TableID(rel.oid), Schema: rel.schema, Name: rel.name,
		Identity: identityOf(string(rel.identity)), Columns: make([]source.Column, len(rel.columns)),
	}
	for i := range rel.columns {
		col := &rel.columns[i]
		t.Columns[i] = source.Column{Name: col.name, Type: registry.Type(col.typ), Key: col.key}
	}
	return t
}
