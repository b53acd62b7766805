package streams

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// CheckTables compares the plan with a database's tables: what it names and they
// lack, and tables whose changes could not be followed. Tables that may yet be
// created are warnings; a table without replica identity is an Error.
func (p *Plan) CheckTables(tables []*source.Table) []Diagnostic {
	d := &document{src: p.doc.src, lines: p.doc.lines}
	unusable := map[*source.Table]bool{}
	for i := range p.refs {
		ref := &p.refs[i]
		var matched []*source.Table
		for _, t := range tables {
			if ref.pattern.Matches(t) {
				matched = append(matched, t)
			}
		}
		if len(matched) == 0 {
			d.reportAt(Warning, ref.stream, ref.place, fmt.Sprintf("there is no table %s", ref.pattern), suggestTable(ref.pattern, tables))
			continue
		}
		for _, c := range ref.columns {
			checkColumn(d, ref, c, matched)
		}
		for _, t := range matched {
			if !t.Usable() && !unusable[t] {
				unusable[t] = true
				d.reportAt(Error, ref.stream, ref.place, fmt.Sprintf("table %s has no primary key: its changes cannot be followed", t.QualifiedName()),
					fmt.Sprintf("add a primary key, or run ALTER TABLE %s REPLICA IDENTITY FULL", t.QualifiedName()))
			}
		}
	}
	return d.sorted()
}

func checkColumn(d *document, ref *tableRef, c columnRef, tables []*source.Table) {
	var names []string
	for _, t := range tables {
		for i := range t.Columns {
			if t.Columns[i].Name == c.name {
				return
			}
			if !slices.Contains(names, t.Columns[i].Name) {
				names = append(names, t.Columns[i].Name)
			}
		}
	}
	d.reportAt(Warning, ref.stream, c.place, fmt.Sprintf("table %s has no column %s: it counts as NULL", ref.pattern, c.name), didYouMean(c.name, names))
}

// suggestTable names the table that was probably meant: by a like name, or of the
// same name in another schema or in another case.
func suggestTable(p TablePattern, tables []*source.Table) string {
	var names []string
	for _, t := range tables {
		if strings.EqualFold(t.Name, p.Name) {
			if t.Schema != p.Schema {
				return fmt.Sprintf("did you mean %s?", t.QualifiedName())
			}
			return fmt.Sprintf(`did you mean "%s", in double quotes?`, t.Name)
		}
		if t.Schema == p.Schema {
			names = append(names, t.Name)
			if t.RootName != "" {
				names = append(names, t.RootName)
			}
		}
	}
	return didYouMean(p.Name, names)
}
