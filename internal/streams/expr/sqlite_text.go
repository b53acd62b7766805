package expr

import (
	"strings"
)

// SQLite takes as one character a byte below 0xC0, or one from 0xC0 together with
// the continuation bytes after it, whether or not that is UTF-8.

func sizeSQLite(s string) int {
	n := 1
	if s[0] >= 0xC0 {
		for n < len(s) && s[n]&0xC0 == 0x80 {
			n++
		}
	}
	return n
}

func countSQLite(s string) int {
	n := 0
	for i := 0; i < len(s); i += sizeSQLite(s[i:]) {
		n++
	}
	return n
}

// sliceSQLite returns the characters from, up to but not including, to.
func sliceSQLite(s string, from, to int64) string {
	i := 0
	var at int64
	for ; i < len(s) && at < from; at++ {
		i += sizeSQLite(s[i:])
	}
	start := i
	for ; i < len(s) && at < to; at++ {
		i += sizeSQLite(s[i:])
	}
	return s[start:i]
}

// instrSQLite counts the characters before the first place where t begins; it looks
// at the starts of characters only.
func instrSQLite(s, t string) int64 {
	at := int64(1)
	for i := 0; ; at++ {
		if strings.HasPrefix(s[i:], t) {
			return at
		}
		if i >= len(s) {
			return 0
		}
		i++
		for i < len(s) && s[i]&0xC0 == 0x80 {
			i++
		}
	}
}
