package expr

import (
	"github.com/millrace-sync/millrace/internal/source"
)

// affinity is SQLite's: what a comparison converts its operands to. A CAST has the
// one of its type, a column without a type that of blobs, anything else none.
type affinity uint8

const (
	affNone affinity = iota
	affBlob
	affText
	affNumeric // also of CAST to integer and real: comparisons treat them alike
)

// comparisonAffinity returns what both operands of a comparison are converted to.
func comparisonAffinity(a, b affinity) affinity {
	if a != affNone && b != affNone {
		if a == affNumeric || b == affNumeric {
			return affNumeric
		}
		return affBlob
	}
	return max(a, b)
}

// applyBoth converts the operands of a comparison; neither is NULL.
func (f affinity) applyBoth(x, y source.Value) (source.Value, source.Value) {
	switch f {
	case affNumeric:
		return numericAffinity(x), numericAffinity(y)
	case affText:
		if x.Kind() == source.KindText || y.Kind() == source.KindText {
			return textAffinity(x), textAffinity(y)
		}
	}
	return x, y
}

// numericAffinity converts text that is a number as a whole.
func numericAffinity(v source.Value) source.Value {
	if v.Kind() != source.KindText {
		return v
	}
	f, form := parseFloatSQLite(v.Str())
	switch form {
	case formInteger:
		if i, state := parseIntSQLite(v.Str()); state == intExact {
			return source.Int(i)
		}
		return source.Real(f)
	case formReal:
		return source.Real(f)
	}
	return v
}

func textAffinity(v source.Value) source.Value {
	switch v.Kind() {
	case source.KindInteger, source.KindReal:
		return source.String(textSQLite(v))
	}
	return v
}
