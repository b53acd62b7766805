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

// instrSQLite returns the number of the character at which t begins in s, or 0. Only
// the start of s and bytes that continue no character count as starts.
func instrSQLite(s, t string) int64 {
	if t == "" {
		return 1
	}
	at := 0
	if t[0]&0xC0 != 0x80 {
		at = strings.Index(s, t)
	} else if !strings.HasPrefix(s, t) {
		at = -1
	}
	if at < 0 {
		return 0
	}
	n := int64(1)
	for i := 1; i <= at; i++ {
		if s[i]&0xC0 != 0x80 {
			n++
		}
	}
	return n
}
