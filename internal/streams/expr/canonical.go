package expr

import (
	"encoding/hex"
	"math"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// Canonical returns an unambiguous text of an expression: equal texts mean equal
// expressions. It is stable across versions, because definitions are identified by
// a hash of it. It does not depend on spelling: <> and != are the same.
func Canonical(n Node) string {
	var b strings.Builder
	canonical(&b, n, 0)
	return b.String()
}

func canonical(b *strings.Builder, n Node, depth int) {
	if depth > MaxNodeDepth {
		b.WriteString("…")
		return
	}
	switch n := n.(type) {
	case nil:
		b.WriteString("-")
	case Const:
		canonicalValue(b, n.Value)
	case Input:
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n.Index))
		if n.Column {
			b.WriteByte('c')
		}
	case Call:
		b.WriteByte('(')
		b.WriteString(strconv.Quote(canonicalOp(n.Op)))
		for _, a := range n.Args {
			b.WriteByte(' ')
			canonical(b, a, depth+1)
		}
		b.WriteByte(')')
	case Case:
		b.WriteString("(case ")
		canonical(b, n.Base, depth+1)
		for _, w := range n.Whens {
			b.WriteByte(' ')
			canonical(b, w[0], depth+1)
			b.WriteByte(' ')
			canonical(b, w[1], depth+1)
		}
		b.WriteString(" else ")
		canonical(b, n.Else, depth+1)
		b.WriteByte(')')
	}
}

// canonicalOp gives operators that mean the same the same name.
func canonicalOp(op string) string {
	switch op {
	case "<>":
		return "!="
	case "==":
		return "="
	case "substr":
		return "substring"
	case "if":
		return "iif"
	}
	return op
}

func canonicalValue(b *strings.Builder, v source.Value) {
	switch v.Kind() {
	case source.KindNull:
		b.WriteString("null")
	case source.KindInteger:
		if d := v.BigDigits(); d != "" {
			b.WriteString(d)
			return
		}
		i, _ := v.Int()
		b.WriteString(strconv.FormatInt(i, 10))
	case source.KindReal:
		b.WriteString("real:")
		b.WriteString(strconv.FormatUint(math.Float64bits(v.Real()), 16))
	case source.KindText:
		b.WriteString(strconv.Quote(v.Str()))
	case source.KindBlob:
		b.WriteString("x'")
		b.WriteString(hex.EncodeToString([]byte(v.Str())))
		b.WriteByte('\'')
	}
}
