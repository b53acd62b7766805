package pgtypes

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/internal/source"
)

// serverValue is one value as a server printed and sent it.
type serverValue struct {
	line int
	oid  uint32
	text string
	send []byte // nil if the type has no send function
	want string // the JSON that clients get in the new form, "" if not known
}

func readValues(t testing.TB) []serverValue {
	t.Helper()
	file, err := os.Open("testdata/values.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var all []serverValue
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		f := strings.SplitN(lines.Text(), "\t", 4)
		v := serverValue{line: n}
		oid, err := strconv.ParseUint(f[0], 10, 32)
		if err != nil {
			t.Fatalf("line %d: %v", n, err)
		}
		v.oid = uint32(oid)
		if v.text, err = strconv.Unquote(f[1]); err != nil {
			t.Fatalf("line %d: %v", n, err)
		}
		if f[2] != "-" {
			if v.send, err = hex.DecodeString(f[2]); err != nil {
				t.Fatalf("line %d: %v", n, err)
			}
			if v.send == nil {
				v.send = []byte{}
			}
		}
		if f[3] != "-" {
			v.want = f[3]
		}
		all = append(all, v)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func allForms() []source.Form {
	var forms []source.Form
	for p := source.PrecisionSource; p <= source.PrecisionNanoseconds; p++ {
		for i := range 4 {
			forms = append(forms, source.Form{ISOTimestamps: i&1 != 0, CustomTypes: i&2 != 0, Precision: p})
		}
	}
	return append(forms, source.CanonicalForm)
}

// TestTextEqualsBinary decodes what a server printed and what it sent of some
// thousands of values of all types, in every form.
func TestTextEqualsBinary(t *testing.T) {
	r := registryOf(t, "testdata/types.json")
	compared := map[uint32]int{}
	for _, v := range readValues(t) {
		typ := r.Type(v.oid).(*typ)
		for _, f := range allForms() {
			text, err := typ.Decode(source.Datum{Bytes: []byte(v.text), Encoding: source.Text}, f)
			if err != nil {
				t.Fatalf("line %d: %q in form %v: %v", v.line, v.text, f, err)
			}
			binary, err := typ.Decode(source.Datum{Bytes: v.send, Encoding: source.Binary}, f)
			if !r.BinaryReadable(v.oid) {
				if !errors.Is(err, ErrNotBinary) {
					t.Fatalf("line %d: %s from binary: %v, want ErrNotBinary", v.line, typ.Name(), err)
				}
				continue
			}
			if err != nil || text != binary {
				t.Fatalf("line %d: %s in form %v: from text %q %v, from binary %v, %v", v.line, typ.Name(), f, v.text, text, binary, err)
			}
			compared[v.oid]++
		}
		if typ.binary {
			if out, err := typ.unpack(nil, v.send, 0); err != nil || string(out) != v.text {
				t.Errorf("line %d: %s from binary prints %q, %v; the server prints %q", v.line, typ.Name(), out, err, v.text)
			}
		}
	}
	if len(compared) < 60 {
		t.Errorf("compared values of %d types only", len(compared))
	}
}

// TestBuiltins compares the table of built-in types with a server's catalog.
func TestBuiltins(t *testing.T) {
	var infos []Info
	readJSON(t, "testdata/types.json", &infos)
	byOID := map[uint32]Info{}
	for _, i := range infos {
		byOID[i.OID] = i
	}
	seen := 0
	for _, i := range infos {
		const firstUserOID = 16_384
		elem := byOID[i.Elem].Kind
		// Rows of the catalog's own tables are left to the catalog; columns have no pseudo-types.
		if i.OID >= firstUserOID || i.Kind == Composite || elem == Composite || i.Kind == Pseudo || elem == Pseudo {
			continue
		}
		seen++
		b, ok := builtins[i.OID]
		if !ok {
			t.Errorf("%s (%d) is missing", i.Name, i.OID)
			continue
		}
		if b.delim == 0 {
			b.delim = ','
		}
		want := builtin{name: i.Name, part: max(i.Elem, i.Subtype), delim: i.Delim, codec: b.codec}
		switch {
		case i.Elem != 0:
			want.shape, want.delim = arrayShape, ','
		case i.Kind == Range:
			want.shape = rangeShape
		case i.Kind == Multirange:
			want.shape = multirangeShape
		case b.codec == nil:
			t.Errorf("%s (%d) has no codec", i.Name, i.OID)
		}
		if b != want {
			t.Errorf("%s (%d): got %+v, want %+v", i.Name, i.OID, b, want)
		}
	}
	if seen != len(builtins) {
		t.Errorf("compared %d types of %d", seen, len(builtins))
	}
}

// TestExact holds the canonical form to what identities need: different values
// of one type stay different.
func TestExact(t *testing.T) {
	r := registryOf(t, "testdata/types.json")
	type value struct {
		oid uint32
		v   source.Value
	}
	texts := map[value]string{}
	for _, v := range readValues(t) {
		got, err := r.Type(v.oid).Decode(source.Datum{Bytes: []byte(v.text), Encoding: source.Text}, source.CanonicalForm)
		if err != nil {
			t.Fatalf("line %d: %v", v.line, err)
		}
		if other, ok := texts[value{v.oid, got}]; ok && other != v.text {
			t.Errorf("line %d: %q and %q both give %v", v.line, v.text, other, got)
		}
		texts[value{v.oid, got}] = v.text
	}
}

// TestServerJSON compares the new form with JSON that the server made of the value
// by its own functions.
func TestServerJSON(t *testing.T) {
	r := registryOf(t, "testdata/types.json")
	compared := 0
	for _, v := range readValues(t) {
		typ := r.Type(v.oid).(*typ)
		got, err := typ.Decode(source.Datum{Bytes: []byte(v.text), Encoding: source.Text}, newForm)
		if err != nil {
			t.Fatalf("line %d: %v", v.line, err)
		}
		container := typ.shape != scalarShape && got != source.String(emptyRange)
		if container && !json.Valid([]byte(got.Str())) {
			t.Errorf("line %d: %s %q gives invalid JSON %q", v.line, typ.Name(), v.text, got.Str())
		}
		if v.want == "" {
			continue
		}
		compared++
		b := []byte(got.Str())
		if !container {
			b = got.AppendJSON(nil)
		}
		var g, w any
		if err := json.Unmarshal(b, &g); err != nil {
			t.Fatalf("line %d: %s: %v", v.line, b, err)
		}
		if err := json.Unmarshal([]byte(v.want), &w); err != nil {
			t.Fatalf("line %d: %s: %v", v.line, v.want, err)
		}
		if !reflect.DeepEqual(g, w) {
			t.Errorf("line %d: %s %q gives %s, want %s", v.line, typ.Name(), v.text, b, v.want)
		}
	}
	if compared < 1000 {
		t.Errorf("compared %d values only", compared)
	}
}
