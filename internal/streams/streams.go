// Package streams compiles a sync config into a Plan and evaluates it: from a
// source row to the buckets and lookups it is in, and from a client's request to
// the buckets it may read. It is the security boundary between users.
//
// It is pure: text, rows and requests in, values out; no I/O, clock or goroutine.
// The replicate package feeds it rows, session feeds it requests. Sub-packages:
// sql parses queries with their positions, expr evaluates expressions.
//
// A query goes this way:
//
//	YAML (document, config) ─▶ SQL tree (sql) ─▶ names resolved, subqueries and CTEs
//	flattened (scope, query, lower, formula) ─▶ disjunctive normal form: terms ─▶
//	each term a join (rule) ─▶ the request's side (path), row programs (program)
//	of the output table and of every table on the way ─▶ definitions ─▶ Plan
//
// In a term, what depends on one row is that row's filter, what depends on the
// request alone is a condition on it, and equalities between two of them are the
// variables of the join. The output table's variables are its buckets' parameters.
// Every other table becomes a lookup index from the variables known by then to
// those still wanted. At request time (request, join) the tuples of variables are
// joined step by step, and what is left are the buckets. Rows (bind, row) evaluate
// their programs, bound to column positions. Values are compared between sides in
// the form that AppendParam gives them, in which 1 and 1.0 are one and NULL is none.
//
// Invariants:
//   - For every request, the rows in the buckets that Plan.Buckets names are the
//     rows that the streams' SQL gives on the source for that token and those
//     parameters.
//   - Evaluation depends on nothing but its arguments: the same row gives the same
//     output in any process and at any time.
//   - A Definition's Hash depends on what it computes and on nothing else: not on
//     the names, order, comments or number of streams around it.
//   - A Plan and a TableEval are immutable and safe for concurrent use; an Output
//     belongs to one goroutine.
package streams

import (
	"github.com/millrace-sync/millrace/internal/source"
)

// Source is the text of a sync config and where it came from.
type Source struct {
	// File names the text in diagnostics, such as "sync-config.yaml".
	File string
	Text string
	// Line and Column are where Text begins in File when it is embedded in another
	// document, as with sync_config.content in powersync.yaml; both 0 means it is
	// the whole file. Indent is the number of columns that every line of Text after
	// the first lost when it was taken out of a YAML block scalar.
	Line, Column, Indent int
}

// Plan is a compiled sync config.
type Plan struct {
	// Definitions holds every bucket source and lookup index, in an order that
	// follows from their hashes. Positions in it are the Def fields below.
	Definitions []*Definition
	// Streams are in the order in which the config declares them.
	Streams []*Stream
	// Form is the form in which the config wants values decoded.
	Form source.Form

	compiled
}

// DefinitionKind tells a bucket source from a lookup index.
type DefinitionKind uint8

// The kinds of Definition.
const (
	BucketSource DefinitionKind = iota + 1
	LookupIndex
)

// Definition is one bucket source or one lookup index of a plan.
type Definition struct {
	Kind DefinitionKind
	// Hash is the hex SHA-256 of Canonical.
	Hash string
	// Canonical is the definition's serialised form, stable across versions.
	Canonical string
	// Label is the readable part of the names of its buckets, such as "todos|0".
	Label string
	// Tables are the source tables it reads.
	Tables []TablePattern
}

// TablePattern names source tables; a % at the end of Schema or Name stands for
// any ending, as in "logs_%".
type TablePattern struct {
	Schema, Name string
}

// Stream is one stream, or one legacy bucket definition, of a plan.
type Stream struct {
	Name          string
	AutoSubscribe bool
	Priority      int // 0 to 3, 0 first
}

// Bind prepares the evaluation of one table's rows. It returns nil if no
// definition reads the table. Diagnostics name columns that queries want and the
// table lacks; they evaluate as NULL.
//
// Only the definitions whose positions are in only are evaluated; nil means all.
func (p *Plan) Bind(t *source.Table, only []int) (*TableEval, []Diagnostic) {
	return p.bind(t, only)
}

// Output is what one row evaluates to. Its slices are reused by the next call
// with the same Output.
type Output struct {
	Puts    []Put
	Lookups []Entry
	// Errors holds a message for each query of a definition that could not be
	// evaluated for this row; the row is in none of the buckets, and contributes to
	// none of the lookups, that this query alone would put it into.
	Errors []RowError

	scratch
}

// Put says that a row is in a bucket. Within one Output the combination of Def,
// Params, ObjectType and ObjectID occurs once.
type Put struct {
	Def        int    // position in Plan.Definitions
	Params     string // the bucket's parameter values as a JSON array, such as ["u1"]
	ObjectType string
	ObjectID   string
	Data       []byte // the row as JSON text; may be shared between Puts
}

// Entry says what a row contributes to a lookup. Within one Output the combination
// of Def and Key occurs once; Values encodes every result the row has for the key.
type Entry struct {
	Def    int
	Key    string
	Values []byte
}

// RowError reports a definition that could not be evaluated for a row.
type RowError struct {
	Def     int
	Message string
}

// Row evaluates one row, with one datum for each column of the bound table; none
// may be Unchanged. It fills out, which it first empties.
func (e *TableEval) Row(row []source.Datum, out *Output) { e.row(row, out) }

// Request is what a client asks for, and who it is.
type Request struct {
	// Claims is the verified token's payload as JSON.
	Claims []byte
	// Parameters is the request's connection parameters as a JSON object; empty means {}.
	Parameters []byte
	// IncludeDefaults asks for the streams that are subscribed automatically.
	IncludeDefaults bool
	Subscriptions   []Subscription
}

// Subscription is a client's use of a stream with parameters.
type Subscription struct {
	Stream     string
	Parameters []byte // a JSON object; empty means {}
	Priority   *int   // overrides the stream's
}

// Lookups reads lookup entries as of one checkpoint.
type Lookups interface {
	// Lookup calls yield with the values of every row that contributes to the key,
	// in no particular order; the bytes are valid until it returns. def is a
	// position in Plan.Definitions.
	Lookup(def int, key string, yield func(values []byte) error) error
}

// Limits bounds what one request may cost.
type Limits struct {
	Buckets       int // PSYNC_S2305 beyond
	LookupResults int // PSYNC_S2305 beyond
}

// BucketSet is the answer to a Request.
type BucketSet struct {
	// Buckets holds each bucket once, in no particular order.
	Buckets []RequestedBucket
	// Streams lists every stream that is default or subscribed, in declaration order.
	Streams []RequestedStream
	// Reads names every lookup that was read: while none of them changes, neither
	// does this answer.
	Reads []LookupRead
}

// RequestedBucket is one bucket of a client's view.
type RequestedBucket struct {
	Def      int
	Params   string
	Priority int // the least of those that lead to it
	// Defaults holds positions in BucketSet.Streams, Subscriptions positions in
	// Request.Subscriptions: the ways that lead to the bucket.
	Defaults      []int
	Subscriptions []int
}

// RequestedStream is one stream of a client's view.
type RequestedStream struct {
	Name    string
	Default bool
	Errors  []StreamError
}

// StreamError reports that a stream could not be evaluated for a subscription.
type StreamError struct {
	Subscription int // position in Request.Subscriptions; -1 for the default one
	Message      string
}

// LookupRead names a lookup that was read.
type LookupRead struct {
	Def int
	Key string
}

// Buckets evaluates a request. It fails only if a limit is exceeded (LimitError)
// or l fails; parameters that do not evaluate are reported in the answer.
func (p *Plan) Buckets(req *Request, l Lookups, limits Limits) (*BucketSet, error) {
	return p.buckets(req, l, limits)
}

// LimitError says that a request needs more buckets or lookup results than allowed.
type LimitError struct {
	What  string // "buckets" or "parameter query results"
	Limit int
}

func (e *LimitError) Error() string { return "too many " + e.What }

// Setting names the key of the configuration that sets the limit.
func (e *LimitError) Setting() string {
	if e.What == "buckets" {
		return "api.parameters.max_buckets_per_connection"
	}
	return "api.parameters.max_parameter_query_results"
}
