//go:build unix

package chaos

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// schema is the service rounds' database. Every row of item, entry and tag belongs
// to a group, and every transaction that changes rows ends by sealing their groups.
//
// The tables differ in how their rows are told apart: by primary key, by nothing but
// all columns, and by an index.
const schema = `
CREATE TABLE seal(grp text PRIMARY KEY, n bigint NOT NULL, digest text NOT NULL);
CREATE TABLE member(id text PRIMARY KEY, usr text NOT NULL, grp text NOT NULL);
CREATE TABLE item(id text PRIMARY KEY, grp text NOT NULL, amount bigint NOT NULL, note text);
CREATE TABLE entry(id text NOT NULL, grp text NOT NULL, n integer NOT NULL);
CREATE TABLE tag(id text PRIMARY KEY, code text NOT NULL UNIQUE, grp text NOT NULL);
ALTER TABLE item ALTER COLUMN note SET STORAGE EXTERNAL;
ALTER TABLE entry REPLICA IDENTITY FULL;
ALTER TABLE tag REPLICA IDENTITY USING INDEX tag_code_key;
CREATE INDEX ON item(grp);
CREATE PUBLICATION powersync FOR ALL TABLES;
`

// sealSQL seals groups ($1, a text array). Rows' hashes are summed modulo 2⁶⁴; rows
// of entry that are equal count once, as clients show one.
const sealSQL = `
UPDATE seal s SET n = n + 1, digest = (
	SELECT mod(mod(coalesce(sum(('x' || left(md5(line), 16))::bit(64)::bigint::numeric), 0), 18446744073709551616) + 18446744073709551616, 18446744073709551616)::text
	FROM (
		SELECT 'item|' || id || '|' || amount || '|' || md5(coalesce(note, '')) AS line FROM item WHERE grp = s.grp
		UNION SELECT 'entry|' || id || '|' || n FROM entry WHERE grp = s.grp
		UNION SELECT 'tag|' || id || '|' || code FROM tag WHERE grp = s.grp
	) lines)
WHERE grp = ANY($1)`

// sealed returns the group whose seal a row counts for, and its hash, as sealSQL has it.
func (r *Row) sealed() (group string, hash uint64) {
	text := func(column string) string {
		if v := r.Fields[column]; v != nil {
			return fmt.Sprint(v)
		}
		return ""
	}
	parts := []string{r.Table, r.ID}
	switch r.Table {
	case "item":
		note := md5.Sum([]byte(text("note")))
		parts = append(parts, text("amount"), hex.EncodeToString(note[:]))
	case "entry":
		parts = append(parts, text("n"))
	case "tag":
		parts = append(parts, text("code"))
	default:
		return "", 0
	}
	sum := md5.Sum([]byte(strings.Join(parts, "|")))
	return text("grp"), binary.BigEndian.Uint64(sum[:])
}

// Seals is the number of each group's last seal.
type Seals map[string]uint64

// Check tells whether rows can have been the state of the database: each group's rows
// add up to its seal, and no seal is older than one seen before (before; may be nil).
// A member sees the groups that its own member rows name, no more and no less.
func Check(rows Rows, before Seals, member bool) (Seals, error) {
	sums, seals, digests, groups := map[string]uint64{}, Seals{}, map[string]uint64{}, map[string]bool{}
	for _, r := range rows {
		switch {
		case r.Group != "":
			sums[r.Group] += r.Hash
		case r.Table == "member":
			groups[fmt.Sprint(r.Fields["grp"])] = true
		case r.Table == "seal":
			n, err := strconv.ParseUint(fmt.Sprint(r.Fields["n"]), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("seal %s: %w", r.Data, err)
			}
			if digests[r.ID], err = strconv.ParseUint(fmt.Sprint(r.Fields["digest"]), 10, 64); err != nil {
				return nil, fmt.Errorf("seal %s: %w", r.Data, err)
			}
			seals[r.ID] = n
		}
	}
	for _, g := range slices.Sorted(maps.Keys(sums)) {
		if _, ok := seals[g]; !ok {
			return nil, fmt.Errorf("there are rows of group %s and no seal", g)
		}
	}
	for _, g := range slices.Sorted(maps.Keys(seals)) {
		if sums[g] != digests[g] {
			return nil, fmt.Errorf("the rows of group %s are not those of its seal %d", g, seals[g])
		}
		if seals[g] < before[g] {
			return nil, fmt.Errorf("group %s went back from seal %d to %d", g, before[g], seals[g])
		}
		if member && !groups[g] {
			return nil, fmt.Errorf("group %s is shown to somebody who is not a member", g)
		}
	}
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		if _, ok := seals[g]; member && !ok {
			return nil, fmt.Errorf("a member of group %s does not see it", g)
		}
	}
	return seals, nil
}
