package expr

import (
	"math"

	"github.com/millrace-sync/millrace/internal/source"
)

func roundDecimal(r float64, digits int) float64 { p := math.Pow10(digits); return math.Round(r*p) / p }
func jsonEachSQLite(op string, v source.Value, yield func(key, value source.Value) bool) error {
	return jsonEach(op, v, Options{FixedJSONExtract: true}, yield)
}
func arrowSQLite(op string, x, path source.Value) (source.Value, error) {
	j, err := jsonOf(op, x)
	if err != nil {
		return source.Value{}, err
	}
	found, ok := arrowPath(j, path, true)
	if !ok {
		return source.Value{}, nil
	}
	if op == "->" {
		b, err := found.appendCompact(op, nil)
		return source.String(string(b)), err
	}
	return found.value(op)
}
func jsonExtractSQLite(op string, a []source.Value) (source.Value, error) {
	return jsonExtract(Options{}, a)
}
func jsonArrayLengthSQLite(op string, a []source.Value) (source.Value, error) {
	return jsonArrayLength(Options{}, a)
}
func jsonValidSQLite(op string, a []source.Value) (source.Value, error) {
	return jsonValid(Options{}, a)
}
