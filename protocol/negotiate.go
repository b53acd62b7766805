package protocol

import (
	"strconv"
	"strings"
)

// maxPreferences bounds how many elements of an Accept header are looked at.
const maxPreferences = 64

// preference is one element of an Accept or Accept-Encoding header.
type preference struct {
	value string // lower case
	q     float64
	order int
}

// preferences reads a header's elements with their q values. Parameters other than
// q are ignored, elements with a bad q too.
func preferences(header string) []preference {
	var out []preference
	for i := 0; header != "" && i < maxPreferences; i++ {
		var element string
		element, header, _ = strings.Cut(header, ",")
		value, params, _ := strings.Cut(element, ";")
		p := preference{value: strings.ToLower(strings.TrimSpace(value)), q: 1, order: i}
		ok := p.value != ""
		for params != "" {
			var param string
			param, params, _ = strings.Cut(params, ";")
			name, val, _ := strings.Cut(param, "=")
			if strings.EqualFold(strings.TrimSpace(name), "q") {
				q, err := strconv.ParseFloat(strings.TrimSpace(val), 64)
				ok = ok && err == nil && q >= 0 && q <= 1
				p.q = q
			}
		}
		if ok {
			out = append(out, p)
		}
	}
	return out
}

// NegotiateCodec returns the codec to answer with, given a request's Accept header
// and its RawData: BSON if the header prefers it by q and then by order, else JSON
// lines, the answer also to headers that name neither.
func NegotiateCodec(accept string, rawData bool) Codec {
	// The most specific element that matches a type speaks for it.
	match := func(typ string) (best preference, specificity int) {
		specificity = -1
		for _, p := range preferences(accept) {
			s := -1
			switch p.value {
			case typ:
				s = 2
			case "application/*":
				s = 1
			case "*/*":
				s = 0
			}
			if s > specificity || s == specificity && s >= 0 && p.q > best.q {
				best, specificity = p, s
			}
		}
		return best, specificity
	}
	bson, bs := match(BSONStreamType)
	json, js := match(NDJSONType)
	if bs >= 0 && bson.q > 0 {
		switch {
		case js < 0 || bson.q > json.q,
			bson.q == json.q && bs > js,
			bson.q == json.q && bs == js && bson.order < json.order:
			return BSON
		}
	}
	if rawData {
		return JSONLines
	}
	return JSONLinesEmbedded
}

// Encoding is a compression of a response's body.
type Encoding uint8

// The encodings, from least to most preferred.
const (
	Identity Encoding = iota
	Gzip
	Zstd
)

// String returns the encoding's name in headers.
func (e Encoding) String() string {
	switch e {
	case Gzip:
		return "gzip"
	case Zstd:
		return "zstd"
	}
	return "identity"
}

// NegotiateEncoding returns the encoding that an Accept-Encoding header prefers.
// Of equals it takes the later constant. It never refuses: what no header asks for
// goes out as it is.
func NegotiateEncoding(accept string) Encoding {
	var (
		q     [3]float64
		named [3]bool
		rest  float64
		any   bool
	)
	for _, p := range preferences(accept) {
		switch p.value {
		case "zstd":
			q[Zstd], named[Zstd] = p.q, true
		case "gzip", "x-gzip":
			q[Gzip], named[Gzip] = p.q, true
		case "identity":
			q[Identity], named[Identity] = p.q, true
		case "*":
			rest, any = p.q, true
		}
	}
	best := Identity
	for e := Identity; e <= Zstd; e++ {
		if any && !named[e] {
			q[e] = rest
		}
		if q[e] > 0 && q[e] >= q[best] {
			best = e
		}
	}
	return best
}
