// Package expr evaluates the SQL expressions of a sync config: the columns that
// streams output, their filters, their keys, and the parameters of requests.
//
// It is pure. The streams package owns it: it compiles its syntax tree to Nodes
// once per plan, and evaluates Programs once per row or request.
//
// There are two stated semantics. Reference is what the service that we replace
// gives by default, deviations from SQLite included, so that nobody's data changes
// on migration; SQLite is what SQLite 3.53 gives for the same text with the inputs
// as bound parameters. docs/compatibility-expressions.md lists every difference.
//
// Invariants:
//   - Evaluation depends on the Program and its inputs only: no clock, locale, time
//     zone, or random source. What would need one is rejected by Check or Compile.
//   - A Program is immutable and safe for concurrent use.
//   - A bad value gives an error for that evaluation, never a panic.
//   - Time and memory are bounded: see the Max constants.
package expr

import (
	"errors"
	"fmt"

	"github.com/millrace-sync/millrace/internal/source"
)

// Bounds of one evaluation. What exceeds them is an error of kind ErrLimit.
const (
	// MaxText is the size in bytes of the longest text or blob that an operator or
	// function may make; values that come in may be larger.
	MaxText = 64 << 20
	// MaxDigits is the number of decimal digits of the largest integer that the
	// Reference engine's unbounded arithmetic may make.
	MaxDigits = 1000
	// MaxJSONDepth is how deep JSON may be nested.
	MaxJSONDepth = 1000
	// MaxGeometryDepth is how deep geometry collections may be nested.
	MaxGeometryDepth = 32
	// MaxNodeDepth is how deep an expression may be nested.
	MaxNodeDepth = 1000
	// MaxLikePattern is the size in bytes of the longest LIKE pattern.
	MaxLikePattern = 50000
	// MaxLikeSteps is how many comparisons of characters one LIKE may take.
	MaxLikeSteps = 20_000_000
)

// Kinds of error, for errors.Is.
var (
	// ErrUnknown says that there is no such function or operator.
	ErrUnknown = errors.New("unknown function")
	// ErrArity says that a function or operator was given the wrong number of arguments.
	ErrArity = errors.New("wrong number of arguments")
	// ErrNonDeterministic says that a function's result would depend on something
	// other than its arguments, such as the time of day.
	ErrNonDeterministic = errors.New("not deterministic")
	// ErrValue says that a value is not one that the operator or function takes.
	ErrValue = errors.New("unusable value")
	// ErrLimit says that a result would exceed one of the bounds above.
	ErrLimit = errors.New("limit exceeded")
)

// CallError is what Check and Compile report about a call.
type CallError struct {
	Name    string // the function or operator as it was written
	Kind    error  // ErrUnknown, ErrArity or ErrNonDeterministic
	Message string // what is wrong
	Hint    string // what to write instead; may be empty
}

func (e *CallError) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + "; " + e.Hint
}

func (e *CallError) Unwrap() error { return e.Kind }

// evalError is what an evaluation reports: which operation, and why.
type evalError struct {
	op   string
	kind error
	why  string
}

func (e *evalError) Error() string { return e.op + ": " + e.why }
func (e *evalError) Unwrap() error { return e.kind }

func badValue(op, format string, args ...any) error {
	return &evalError{op: op, kind: ErrValue, why: fmt.Sprintf(format, args...)}
}

func tooLarge(op, format string, args ...any) error {
	return &evalError{op: op, kind: ErrLimit, why: fmt.Sprintf(format, args...)}
}

// Engine selects one of the two semantics.
type Engine uint8

// The engines.
const (
	Reference Engine = iota // the existing service's default engine
	SQLite                  // exactly what SQLite gives
)

// String returns the lower-case name.
func (e Engine) String() string {
	if e == SQLite {
		return "sqlite"
	}
	return "reference"
}

// Options selects the semantics of a Program. It is comparable.
type Options struct {
	Engine Engine
	// FixedJSONExtract makes the Reference engine's -> and ->> take 'a.b' as one key
	// and JSON null as NULL; without it dots always split and ->> gives the text
	// null (sync config: fixed_json_extract). The SQLite engine ignores it.
	FixedJSONExtract bool
	// Legacy is for editions 1 and 2: in the Reference engine NULL != x is NULL.
	// Otherwise != is NOT(=), and so NULL != x is true.
	Legacy bool
}

// Node is an expression. The implementations are Const, Input, Call and Case.
type Node interface {
	// depth returns the height of the tree, at most limit+1.
	depth(limit int) int
}

// Const is a literal.
type Const struct{ Value source.Value }

// Input is the value at Index of the slice that Eval is given: a column, a request
// parameter, whatever the caller puts there.
type Input struct {
	Index int
	// Column makes the SQLite engine take the input for a table's column without a
	// declared type, not for a bound parameter. The two differ only where they are
	// compared with CAST(… AS text): beside a column that converts nothing.
	Column bool
}

// Call is an operator or a function applied to its arguments.
//
// Functions go by their lower-case name. Operators go by their SQL spelling:
//
//	OR AND                     two or more arguments
//	NOT ~ NEG                  one argument; NEG is unary minus
//	= == != <> < <= > >=       two
//	IS, IS NOT                 two; null-safe comparison
//	IS NULL, IS NOT NULL, IS TRUE, IS NOT TRUE, IS FALSE, IS NOT FALSE   one
//	+ - * / % & | << >> ||     two
//	BETWEEN, NOT BETWEEN       three: value, low, high
//	IN, NOT IN                 two: value, and the JSON array text (or NULL) to search
//	IN LIST, NOT IN LIST       one or more: value, then the elements of the list
//	&&                         two JSON array texts: do they have an element in common
//	ARRAY                      any number: the elements as JSON array text
//	LIKE, NOT LIKE             two or three: value, pattern, escape character
//	-> ->>                     two: JSON text, path
//	CAST text, CAST numeric, CAST integer, CAST real, CAST blob          one
type Call struct {
	Op   string
	Args []Node
}

// Case is CASE … END. With a Base each When's first node is compared with it,
// otherwise it is a condition. A nil Else means NULL.
type Case struct {
	Base  Node
	Whens [][2]Node
	Else  Node
}

func (Const) depth(int) int { return 1 }
func (Input) depth(int) int { return 1 }

func (c Call) depth(limit int) int { return 1 + depthOf(limit-1, c.Args...) }

func (c Case) depth(limit int) int {
	d := depthOf(limit-1, c.Base, c.Else)
	for _, w := range c.Whens {
		d = max(d, depthOf(limit-1, w[0], w[1]))
	}
	return 1 + d
}

func depthOf(limit int, nodes ...Node) int {
	d := 0
	for _, n := range nodes {
		if n == nil || limit < d {
			continue
		}
		d = max(d, n.depth(limit))
	}
	return d
}

// Program is a compiled expression.
type Program struct {
	run    evalFunc
	inputs int
	node   operand
}

type evalFunc func(in []source.Value) (source.Value, error)

// Eval evaluates the program. inputs must have at least Inputs values. The error is
// of kind ErrValue or ErrLimit and concerns this evaluation only.
func (p *Program) Eval(inputs []source.Value) (source.Value, error) {
	if len(inputs) < p.inputs {
		return source.Value{}, fmt.Errorf("evaluate expression: %d inputs, want %d", len(inputs), p.inputs)
	}
	return p.run(inputs)
}

// Inputs returns one more than the greatest Input.Index that the program reads.
func (p *Program) Inputs() int { return p.inputs }

// Constant returns the program's value if it is the same for all inputs and no error.
func (p *Program) Constant() (source.Value, bool) {
	return p.node.value, p.node.constant
}
