package expr

import (
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
)

func TestEvalSimple(t *testing.T) {
	n := Call{"AND", []Node{
		Call{"=", []Node{Input{0}, Const{source.String("u1")}}},
		Call{">", []Node{Call{"+", []Node{Input{1}, Const{source.Int(1)}}}, Const{source.Int(20)}}},
	}}
	for _, e := range []Engine{Reference, SQLite} {
		p, err := Compile(n, Options{Engine: e})
		if err != nil {
			t.Fatal(err)
		}
		v, err := p.Eval([]source.Value{source.String("u1"), source.Int(20)})
		if err != nil || v != source.Int(1) {
			t.Errorf("%s: %v, %v", e, v, err)
		}
	}
}
