package server

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-sync/millrace/internal/admin"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/streams"
)

// Diagnostics implements httpapi.Admin.
func (o *operator) Diagnostics(ctx context.Context, content bool) (*admin.Diagnostics, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	connection := admin.Connection{ID: o.connection.ID, PostgresURI: o.sourceURI(), Errors: []admin.Problem{}}
	d := &admin.Diagnostics{}
	plan, text := o.deploys.served()
	next := o.next()
	if plan != nil {
		d.Active = o.syncConfig(text, content)
		d.Active.Connections[0].InitialReplicationDone = true
	}
	if next != nil && (plan == nil || next.source.Text != text || next.anew) {
		d.Deploying = o.syncConfig(next.source.Text, content)
	}
	_, waits, failed := o.deployer.status()
	if d.Deploying != nil {
		for _, w := range waits {
			d.Deploying.Errors = append(d.Deploying.Errors, admin.Problem{Level: admin.Fatal, Message: w})
		}
	}
	if failed != nil {
		at := failed.at.UTC()
		d.Failed = &admin.SyncConfig{Connections: []admin.ReplicationState{}, Errors: []admin.Problem{{Level: admin.Fatal, Message: failed.reason.Error(), Time: &at}}}
		if content {
			d.Failed.Content = failed.source.Text
		}
		if d.Active != nil {
			d.Active.Errors = append(d.Active.Errors, admin.Problem{Level: admin.Warning, Time: &at,
				Message: "Another sync config was not taken, and this one goes on: " + failed.reason.Error()})
		}
	}
	if s := o.health.Status(); !s.Ready && d.Active != nil {
		d.Active.Errors = append(d.Active.Errors, admin.Problem{Level: admin.Fatal, Message: s.Reason})
	}
	err := asking(ctx, o.source, func(c *conns) error {
		connection.Connected = true
		if _, err := postgres.Check(ctx, o.source); err != nil {
			return err
		}
		for _, s := range []*admin.SyncConfig{d.Active, d.Deploying} {
			if s == nil {
				continue
			}
			if err := o.replication(ctx, c, s); err != nil {
				return err
			}
			of := plan
			if s == d.Deploying {
				of = next.plan
			}
			tables, err := diagnoseTables(ctx, c, of)
			if err != nil {
				return err
			}
			s.Connections[0].Tables = tables
		}
		return nil
	})
	if err != nil {
		connection.Errors = append(connection.Errors, admin.Problem{Level: admin.Fatal, Message: err.Error()})
	}
	d.Connections = []admin.Connection{connection}
	return d, nil
}

// sourceURI is the source's address without secrets.
func (o *operator) sourceURI() string {
	c := o.connection
	u := url.URL{Scheme: "postgresql", Host: net.JoinHostPort(c.Host, strconv.Itoa(c.Port)), Path: "/" + c.Database}
	if strings.HasPrefix(c.Host, "/") {
		u.Host, u.RawQuery = "", "host="+url.QueryEscape(c.Host)
	}
	return u.String()
}

// syncConfig begins the description of a sync config, by what is known without asking
// the source.
func (o *operator) syncConfig(text string, content bool) *admin.SyncConfig {
	state := admin.ReplicationState{ID: o.connection.ID, Tag: o.connection.Tag, SlotName: o.source.Slot, Tables: []admin.Table{}}
	if at := o.activity.checkpoint(); at.LSN > 0 {
		state.LastLSN = at.LSN.String()
	}
	if at := o.activity.last(); !at.IsZero() {
		at = at.UTC()
		state.LastCheckpoint = &at
	}
	if at := o.health.heard(); !at.IsZero() {
		at = at.UTC()
		state.LastKeepalive = &at
	}
	s := &admin.SyncConfig{Connections: []admin.ReplicationState{state}, Errors: []admin.Problem{}}
	if content {
		s.Content = text
	}
	_, diagnostics := streams.Compile(streams.Source{File: "sync config", Text: text})
	for i := range diagnostics {
		s.Errors = append(s.Errors, problem(&diagnostics[i], text))
	}
	return s
}

// problem translates a diagnostic of a sync config that is a document of its own.
func problem(d *streams.Diagnostic, text string) admin.Problem {
	p := admin.Problem{Level: admin.Warning, Message: d.Message}
	if d.Severity == streams.Error {
		p.Level = admin.Fatal
	}
	if d.Hint != "" {
		p.Message += "; " + d.Hint
	}
	if d.Start.Line < 1 {
		return p
	}
	offset, line := 0, ""
	for i, l := range strings.SplitAfter(text, "\n") {
		if line = l; i+1 == d.Start.Line {
			break
		}
		offset += len(l)
	}
	// Columns count characters, offsets bytes.
	characters := []rune(line)
	from := min(max(d.Start.Column-1, 0), len(characters))
	to := min(from+d.SnippetLen, len(characters))
	p.Location = &admin.Location{Start: offset + len(string(characters[:from])), End: offset + len(string(characters[:to]))}
	return p
}

// stillFor and stuckFor are how long the source may be silent before that is worth a
// warning, and before it is fatal.
const (
	stillFor = 5 * time.Minute
	stuckFor = 15 * time.Minute
)

// replication adds what the source knows of the slot.
func (o *operator) replication(ctx context.Context, c *conns, s *admin.SyncConfig) error {
	state := &s.Connections[0]
	if at := state.LastKeepalive; at != nil {
		switch silent := time.Since(*at); {
		case silent > stuckFor:
			s.Errors = append(s.Errors, admin.Problem{Level: admin.Fatal, Message: fmt.Sprintf("nothing was heard from the source for %s", silent.Round(time.Second))})
		case silent > stillFor:
			s.Errors = append(s.Errors, admin.Problem{Level: admin.Warning, Message: fmt.Sprintf("nothing was heard from the source for %s", silent.Round(time.Second))})
		}
	}
	slot, err := postgres.Slot(ctx, c.catalog, o.source.Slot)
	if err != nil {
		return err
	}
	if slot == nil {
		s.Errors = append(s.Errors, admin.Problem{Level: admin.Fatal, Message: fmt.Sprintf("replication slot %s does not exist", o.source.Slot)})
		return nil
	}
	if slot.Lost != "" {
		s.Errors = append(s.Errors, admin.Problem{Level: admin.Fatal, Message: fmt.Sprintf("replication slot %s is unusable: %s", o.source.Slot, slot.Lost)})
	}
	now, err := postgres.CurrentLSN(ctx, c.catalog)
	if err != nil {
		return err
	}
	lag := lagBytes(now, slot.Confirmed)
	state.LagBytes, state.WALStatus = &lag, slot.WALStatus
	if slot.SafeWAL < 0 {
		return nil
	}
	state.SafeWAL, state.MaxWAL = &slot.SafeWAL, &slot.Budget
	if text, grave := slotTrouble(slot, o.source.Slot); text != "" {
		level := admin.Warning
		if grave {
			level = admin.Fatal
		}
		s.Errors = append(s.Errors, admin.Problem{Level: level, Message: text})
	}
	return nil
}

func lagBytes(now, confirmed source.LSN) int64 {
	if now <= confirmed {
		return 0
	}
	return int64(now - confirmed)
}

// diagnoseTables says which tables a plan reads, and what is wrong with them.
func diagnoseTables(ctx context.Context, c *conns, plan *streams.Plan) ([]admin.Table, error) {
	patterns := patternsOf(plan)
	set, err := c.readTables(ctx, patterns, nil)
	if err != nil {
		return nil, err
	}
	queries := func(matches func(streams.TablePattern) bool) (data, parameters bool) {
		for _, d := range plan.Definitions {
			for _, p := range d.Tables {
				if matches(p) {
					data = data || d.Kind == streams.BucketSource
					parameters = parameters || d.Kind == streams.LookupIndex
				}
			}
		}
		return data, parameters
	}
	list := []admin.Table{}
	at := map[string]int{}
	for _, t := range set.tables {
		row := admin.Table{Schema: t.Schema, Name: t.Name, ReplicationID: []string{}, Errors: []admin.Problem{}}
		for i := range t.Columns {
			if t.Columns[i].Key {
				row.ReplicationID = append(row.ReplicationID, t.Columns[i].Name)
			}
		}
		for _, p := range patterns {
			if p.Matches(t) && strings.HasSuffix(p.Schema+p.Name, "%") {
				row.Pattern = p.Name
			}
		}
		row.DataQueries, row.ParameterQueries = queries(func(p streams.TablePattern) bool { return p.Matches(t) })
		at[t.QualifiedName()] = len(list)
		list = append(list, row)
	}
	for _, p := range set.problems {
		i, ok := at[p.Table]
		if !ok {
			schema, name, _ := strings.Cut(p.Table, ".")
			row := admin.Table{Schema: schema, Name: name, ReplicationID: []string{}, Errors: []admin.Problem{}}
			row.DataQueries, row.ParameterQueries = queries(func(q streams.TablePattern) bool { return q.String() == p.Table })
			i = len(list)
			at[p.Table] = i
			list = append(list, row)
		}
		level := admin.Warning
		if p.Omitted {
			level = admin.Fatal
		}
		list[i].Errors = append(list[i].Errors, admin.Problem{Level: level, Message: p.Err.Error()})
	}
	return list, nil
}

// Validate implements httpapi.Admin.
func (o *operator) Validate(ctx context.Context, content string) (*admin.SyncConfig, error) {
	plan, diagnostics := streams.Compile(streams.Source{File: "sync config", Text: content})
	state := admin.ReplicationState{ID: o.connection.ID, Tag: o.connection.Tag, SlotName: o.source.Slot, Tables: []admin.Table{}}
	s := &admin.SyncConfig{Content: content, Connections: []admin.ReplicationState{state}, Errors: []admin.Problem{}}
	for i := range diagnostics {
		s.Errors = append(s.Errors, problem(&diagnostics[i], content))
	}
	if plan == nil {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	err := asking(ctx, o.source, func(c *conns) error {
		tables, err := diagnoseTables(ctx, c, plan)
		s.Connections[0].Tables = tables
		return err
	})
	if err != nil {
		s.Errors = append(s.Errors, admin.Problem{Level: admin.Warning, Message: "the source did not tell about its tables: " + err.Error()})
		s.Connections[0].Tables = []admin.Table{}
	}
	return s, nil
}
