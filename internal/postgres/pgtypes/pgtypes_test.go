package pgtypes

import (
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
)

func TestSmoke(t *testing.T) {
	r := NewRegistry()
	newForm := source.Form{ISOTimestamps: true, CustomTypes: true}
	for _, c := range []struct {
		oid  uint32
		s    string
		want source.Value
	}{
		{1184, "2024-02-29 12:34:56.7+02", source.String("2024-02-29T10:34:56.700000Z")},
		{1007, "[0:1]={7,8}", source.String("[7,8]")},
		{3904, "[1,)", source.String(`{"lower":1,"upper":null,"lower_exclusive":0,"upper_exclusive":1}`)},
	} {
		v, err := r.Type(c.oid).Decode(source.Datum{Bytes: []byte(c.s), Encoding: source.Text}, newForm)
		if err != nil || v != c.want {
			t.Errorf("%s: %v %v", c.s, v, err)
		}
	}
}
