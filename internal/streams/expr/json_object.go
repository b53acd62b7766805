package expr

import (
	"slices"
	"strconv"
)

type jsonMember struct {
	key   string
	value jsonText
}

// object returns the members of an object in JavaScript's order: keys that are
// array indices first, ascending, then the rest as written; of a repeated key the
// last value, at the place of the first.
func (j jsonText) object() []jsonMember {
	var members []jsonMember
	var places map[string]int // only beyond a few members
	indices := 0
	j.members(func(key, value jsonText) bool {
		k := key.str()
		if i := placeOf(members, places, k); i >= 0 {
			members[i].value = value
			return true
		}
		if _, ok := arrayIndex(k); ok {
			indices++
		}
		members = append(members, jsonMember{k, value})
		switch {
		case places != nil:
			places[k] = len(members) - 1
		case len(members) > 16:
			places = make(map[string]int, 64)
			for i, m := range members {
				places[m.key] = i
			}
		}
		return true
	})
	if indices > 0 {
		slices.SortStableFunc(members, func(a, b jsonMember) int { return compareKeys(a.key, b.key) })
	}
	return members
}

// compareKeys puts array indices first, ascending; other keys are equal.
func compareKeys(a, b string) int {
	x, xok := arrayIndex(a)
	y, yok := arrayIndex(b)
	switch {
	case xok && yok:
		return int(x) - int(y)
	case xok:
		return -1
	case yok:
		return 1
	}
	return 0
}

func placeOf(members []jsonMember, places map[string]int, key string) int {
	if places != nil {
		if i, ok := places[key]; ok {
			return i
		}
		return -1
	}
	for i := range members {
		if members[i].key == key {
			return i
		}
	}
	return -1
}

// arrayIndex reports whether a key is an array index in JavaScript's sense: the
// digits of a number below 2³²−1, without leading zeros.
func arrayIndex(key string) (uint32, bool) {
	if key == "" || len(key) > 10 || (key[0] == '0' && key != "0") {
		return 0, false
	}
	for i := range len(key) {
		if !isDigit(key[i]) {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(key, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1
}

// member returns an object's member, of repeated keys the last.
func (j jsonText) member(key string) (value jsonText, ok bool) {
	j.members(func(k, v jsonText) bool {
		if raw := k[1 : len(k)-1]; string(raw) == key || k.str() == key {
			value, ok = v, true
		}
		return true
	})
	return value, ok
}

// element returns an array's element, counted from 0.
func (j jsonText) element(index int64) (value jsonText, ok bool) {
	var i int64
	j.members(func(_, v jsonText) bool {
		if i == index {
			value, ok = v, true
			return false
		}
		i++
		return true
	})
	return value, ok
}
