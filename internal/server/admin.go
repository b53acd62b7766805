package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/config"
	"github.com/millrace-sync/millrace/internal/deploy"
	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/postgres/pgtypes"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/streams"
	"github.com/millrace-sync/millrace/protocol"
)

// adminTimeout is how long the source may take to answer a question of the admin API.
const adminTimeout = 20 * time.Second

// vitals say how the process is doing.
type vitals interface {
	httpapi.Health
	// heard returns when the source was last heard from; zero if it was not.
	heard() time.Time
	// reading returns how far the tables are that are being read.
	reading() []admin.TableProgress
}

// operator answers the admin API. It asks the source by connections of its own.
type operator struct {
	connection *config.Connection
	source     postgres.Config
	deployer   *deployer
	reloader   *reloader
	deploys    *deploys
	health     vitals
	activity   *activity
	store      any    // which may be able to copy itself
	storage    string // the folder of a store that is
	log        *slog.Logger
}

func (o *operator) slot() admin.Slot { return admin.Slot{SlotName: o.source.Slot} }

// Deploy implements httpapi.Admin.
func (o *operator) Deploy(ctx context.Context, content string) (*admin.Slot, error) {
	if from := o.deployer.suppliedBy(); from != "" {
		return nil, protocol.Errorf(protocol.DeployDisabled, "The sync config comes from %s: change it there, and run millrace deploy, send SIGHUP or "+
			"POST /api/millrace/v1/reload. To deploy through this route, take sync_config out of the configuration.", from)
	}
	return o.took(o.take(ctx, func(ctx context.Context) error {
		return o.deployer.deploy(ctx, streams.Source{File: "sync config", Text: content}, "")
	}))
}

// Reload implements httpapi.Admin.
func (o *operator) Reload(ctx context.Context) (*admin.Slot, error) {
	return o.took(o.take(ctx, o.reloader.again))
}

// Reprocess implements httpapi.Admin.
func (o *operator) Reprocess(ctx context.Context) (*admin.Slot, error) {
	return o.took(o.take(ctx, o.deployer.reprocess))
}

func (o *operator) take(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	return f(ctx)
}

// took translates what became of a sync config.
func (o *operator) took(err error) (*admin.Slot, error) {
	slot := o.slot()
	invalid, isInvalid := errors.AsType[*SyncConfigError](err)
	known, isKnown := errors.AsType[*config.Invalid](err)
	switch {
	case err == nil, errors.Is(err, errUnchanged):
		return &slot, nil
	case isInvalid:
		e := protocol.Errorf(protocol.SyncConfigInvalid, "The sync config has mistakes; the one before goes on being served")
		e.Details = streams.Format(invalid.Diagnostics)
		return nil, e
	case isKnown:
		e := protocol.Errorf(protocol.ConfigInvalid, "The configuration has mistakes; what was there before goes on")
		e.Status, e.Details = 422, known.Error()
		return nil, e
	case errors.Is(err, errNotReloadable), errors.Is(err, context.DeadlineExceeded):
		e := protocol.Errorf(protocol.ShuttingDown, "%v", err)
		return nil, e
	}
	return nil, err
}

// Status implements httpapi.Admin.
func (o *operator) Status(context.Context) (*admin.Status, error) {
	working, waits, failed := o.deployer.status()
	health := o.health.Status()
	s := &admin.Status{
		Deploying: working, Waits: waits, Supplied: o.deployer.suppliedBy(), Checkpoint: o.activity.checkpoint().String(),
		Ready: health.Ready, Reason: health.Reason, Backfill: o.health.reading(),
	}
	if failed != nil {
		s.Failed = failed.reason.Error()
	}
	return s, nil
}

// Current implements httpapi.Admin.
func (o *operator) Current(context.Context) (*admin.Current, error) {
	c := &admin.Current{}
	plan, text := o.deploys.served()
	if plan != nil {
		c.Current = &admin.Deployed{Slot: o.slot(), Content: text, Checked: *describe(plan)}
	}
	if next := o.next(); next != nil && (plan == nil || next.source.Text != text) {
		c.Next = &admin.Deployed{Slot: o.slot(), Content: next.source.Text, Checked: *describe(next.plan)}
	}
	return c, nil
}

// next returns the sync config on its way, nil if there is none.
func (o *operator) next() *target {
	wanted, _ := o.deployer.target()
	if working, _, _ := o.deployer.status(); !working {
		return nil
	}
	return wanted
}

// Check implements httpapi.Admin.
func (o *operator) Check(ctx context.Context, content string) (*admin.Checked, error) {
	plan, diagnostics := streams.Compile(streams.Source{File: "sync config", Text: content})
	if plan == nil {
		c := &admin.Checked{}
		for i := range diagnostics {
			c.Errors = append(c.Errors, diagnostics[i].String())
		}
		return c, nil
	}
	return describe(plan), nil
}

// describe says what a sync config consists of.
func describe(plan *streams.Plan) *admin.Checked {
	c := &admin.Checked{Valid: true, Streams: []admin.CheckedStream{}, Sources: []string{}, Tables: map[string][]any{}}
	for _, s := range plan.Streams {
		c.Streams = append(c.Streams, admin.CheckedStream{Name: s.Name, AutoSubscribe: s.AutoSubscribe, Priority: s.Priority})
	}
	for _, d := range plan.Definitions {
		for _, p := range d.Tables {
			if name := p.String(); !slices.Contains(c.Sources, name) {
				c.Sources = append(c.Sources, name)
			}
			if d.Kind == streams.BucketSource {
				c.Tables[p.Name] = append(c.Tables[p.Name], d.Label)
			}
		}
	}
	slices.Sort(c.Sources)
	return c
}

// DryRun implements httpapi.Admin. Without content it is the configuration's sync
// config that would be deployed.
func (o *operator) DryRun(ctx context.Context, content *string) (*admin.DryRun, error) {
	src := streams.Source{File: "sync config"}
	switch {
	case content != nil:
		src.Text = *content
	case o.reloader.Load == nil:
		_, err := o.took(errNotReloadable)
		return nil, err
	default:
		cfg, err := o.reloader.Load()
		if err != nil {
			_, err = o.took(err)
			return nil, err
		}
		if !cfg.Sync.Supplied() {
			return nil, protocol.Errorf(protocol.NothingToReprocess, "The configuration has no sync config: send the one to deploy.")
		}
		src = cfg.Sync.Source
	}
	plan, diagnostics := streams.Compile(src)
	if plan == nil {
		_, err := o.took(&SyncConfigError{diagnostics})
		return nil, err
	}
	current, _ := o.deploys.served()
	wanted, _ := o.deployer.target()
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	d := dryRun(ctx, o.source, current, plan)
	d.Unchanged = wanted != nil && wanted.source.Text == src.Text
	return d, nil
}

// dryRun says what deploying a plan would do. What the source does not tell is in
// Warnings.
func dryRun(ctx context.Context, source postgres.Config, current, next *streams.Plan) *admin.DryRun {
	changes := deploy.Compared(current, next)
	d := &admin.DryRun{Keep: changes.Keep, New: len(changes.New), Drop: len(changes.Drop), Reads: []admin.TableEstimate{}, Streams: []admin.StreamFate{}}
	for _, s := range changes.Streams {
		d.Streams = append(d.Streams, admin.StreamFate{Name: s.Name, Fate: s.Fate.String()})
	}
	if len(changes.Reads) == 0 {
		return d
	}
	err := asking(ctx, source, func(c *conns) error {
		set, err := c.readTables(ctx, changes.Reads, nil)
		if err != nil {
			return err
		}
		for _, p := range set.problems {
			if p.Omitted && current != nil {
				d.Waits = append(d.Waits, p.Err.Error())
			} else {
				d.Warnings = append(d.Warnings, p.Err.Error())
			}
		}
		for _, w := range next.CheckTables(set.tables) {
			if slices.ContainsFunc(changes.Reads, func(p streams.TablePattern) bool { return strings.Contains(w.Message, p.String()) }) {
				d.Warnings = append(d.Warnings, w.String())
			}
		}
		for _, t := range set.tables {
			rows, err := postgres.Estimate(ctx, c.catalog, t)
			if err != nil {
				return err
			}
			d.Reads = append(d.Reads, admin.TableEstimate{Table: t.QualifiedName(), Rows: rows})
		}
		return nil
	})
	if err != nil {
		d.Warnings = append(d.Warnings, "the source did not tell about its tables: "+err.Error())
		for _, p := range changes.Reads[len(d.Reads):] {
			d.Reads = append(d.Reads, admin.TableEstimate{Table: p.String(), Rows: -1})
		}
	}
	return d
}

// asking opens a connection for questions about the catalog.
func asking(ctx context.Context, source postgres.Config, f func(*conns) error) error {
	conn, err := postgres.Connect(ctx, source)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(&conns{config: source, registry: pgtypes.NewRegistry(), catalog: conn})
}

// Schema implements httpapi.Admin.
func (o *operator) Schema(ctx context.Context) (*admin.Schema, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	out := admin.SchemaConnection{ID: o.connection.ID, Tag: o.connection.Tag, Schemas: []admin.SchemaNamespace{}}
	err := asking(ctx, o.source, func(c *conns) error {
		tables, err := postgres.Schema(ctx, c.catalog)
		if err != nil {
			return err
		}
		for _, t := range tables {
			if n := len(out.Schemas); n == 0 || out.Schemas[n-1].Name != t.Schema {
				out.Schemas = append(out.Schemas, admin.SchemaNamespace{Name: t.Schema})
			}
			table := admin.SchemaTable{Name: t.Name}
			for _, col := range t.Columns {
				table.Columns = append(table.Columns, admin.SchemaColumn{
					Name: col.Name, SQLiteType: sqliteType(col.Base), InternalType: col.Type, Type: col.Base, PgType: col.Base,
				})
			}
			last := &out.Schemas[len(out.Schemas)-1]
			last.Tables = append(last.Tables, table)
		}
		return nil
	})
	if err != nil {
		return nil, unreachable(err)
	}
	return &admin.Schema{Connections: []admin.SchemaConnection{out}, DefaultConnectionTag: o.connection.Tag, DefaultSchema: "public"}, nil
}

// unreachable is what operators are told of a failure of the source: all of it.
func unreachable(err error) error {
	e := protocol.Errorf(protocol.SourceQueryFailed, "The source database did not answer: %w", err)
	if known, ok := errors.AsType[*postgres.Error](err); ok {
		e.Code = protocol.Code(known.Code)
	}
	return e
}

// sqliteType returns what clients get of a type of Postgres, as a bit: 1 blob, 2 text,
// 4 integer, 8 real.
func sqliteType(base string) int {
	switch base {
	case "bytea":
		return 1
	case "bool", "int2", "int4", "int8", "oid":
		return 4
	case "float4", "float8":
		return 8
	}
	return 2
}

// ExecuteSQL implements httpapi.Admin.
func (o *operator) ExecuteSQL(ctx context.Context, r *admin.SQLRequest) (*admin.SQLResult, error) {
	out := &admin.SQLResult{Results: admin.SQLRows{Columns: []string{}, Rows: [][]any{}}}
	fail := func(text string) (*admin.SQLResult, error) {
		out.Error = &admin.SQLError{Message: text}
		return out, nil
	}
	if !o.connection.DebugAPI {
		return fail("running SQL is not allowed: set debug_api of the connection to true")
	}
	if r.ConnectionID != "" && r.ConnectionID != o.connection.ID {
		return fail(fmt.Sprintf("there is no connection %q", r.ConnectionID))
	}
	args, err := sqlArguments(r.SQL.Args)
	if err != nil {
		return fail(err.Error())
	}
	o.log.Warn("an admin runs SQL on the source", "query", r.SQL.Query)
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	err = asking(ctx, o.source, func(c *conns) error {
		result, err := postgres.Execute(ctx, c.catalog, r.SQL.Query, args)
		if err != nil {
			return err
		}
		out.Results.Columns = append(out.Results.Columns, result.Columns...)
		for _, row := range result.Rows {
			values := make([]any, len(row))
			for i, v := range row {
				if v != nil {
					values[i] = sqlValue(c.registry.Type(result.Types[i]), *v)
				}
			}
			out.Results.Rows = append(out.Results.Rows, values)
		}
		return nil
	})
	if err != nil {
		return fail(err.Error())
	}
	out.Success = true
	return out, nil
}

// sqlValue returns a value as JSON has it for clients: numbers for integers and reals,
// text for the rest.
func sqlValue(t source.Type, text string) any {
	v, err := t.Decode(source.Datum{Encoding: source.Text, Bytes: []byte(text)}, source.Form{ISOTimestamps: true, CustomTypes: true})
	if err != nil {
		return text
	}
	switch i, fits := v.Int(); {
	case fits:
		return i
	case v.Kind() == source.KindReal && !math.IsNaN(v.Real()) && !math.IsInf(v.Real(), 0):
		return v.Real()
	case v.Kind() == source.KindText:
		return v.Str()
	}
	return text
}

// sqlArguments returns the text forms of a statement's parameters.
func sqlArguments(args []json.RawMessage) ([]*string, error) {
	out := make([]*string, len(args))
	for i, a := range args {
		var text string
		switch {
		case string(a) == "null":
			continue
		case json.Unmarshal(a, &text) == nil:
		default: // numbers, booleans, and JSON as it is
			text = string(a)
		}
		if strings.ContainsRune(text, 0) {
			return nil, fmt.Errorf("parameter %d has a zero byte, which Postgres does not take", i+1)
		}
		out[i] = &text
	}
	return out, nil
}
