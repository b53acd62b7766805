package protocol_test

import (
	"strings"
	"testing"

	"github.com/millrace-sync/millrace/protocol"
)

func TestNegotiateCodec(t *testing.T) {
	const b, n = protocol.BSONStreamType, protocol.NDJSONType
	for accept, want := range map[string]protocol.Codec{
		"":                                    protocol.JSONLines,
		"*/*":                                 protocol.JSONLines,
		"application/*":                       protocol.JSONLines,
		"text/html":                           protocol.JSONLines,
		n:                                     protocol.JSONLines,
		b:                                     protocol.BSON,
		strings.ToUpper(b):                    protocol.BSON,
		b + ";q=0.9," + n + ";q=0.8":          protocol.BSON,
		n + ";q=0.8, " + b + ";q=0.9":         protocol.BSON,
		b + ";q=0.8," + n + ";q=0.9":          protocol.JSONLines,
		b + "," + n:                           protocol.BSON,
		n + "," + b:                           protocol.JSONLines,
		b + ", */*":                           protocol.BSON,
		"*/*, " + b:                           protocol.BSON,
		b + ";q=0.5, */*":                     protocol.JSONLines,
		b + ";q=0":                            protocol.JSONLines,
		b + ";q=0, */*":                       protocol.JSONLines,
		n + ";q=0, */*;q=0.1":                 protocol.BSON,
		b + ";q=x, " + n:                      protocol.JSONLines,
		b + "; charset=utf-8 ; q=1":           protocol.BSON,
		strings.Repeat("a/b,", 1000) + b:      protocol.JSONLines,
		",,;q=1,":                             protocol.JSONLines,
		"application/*;q=0.9," + b + ";q=1.5": protocol.JSONLines,
	} {
		if got := protocol.NegotiateCodec(accept, true); got != want {
			t.Errorf("%.60q: %s, want %s", accept, got, want)
		}
	}
	if got := protocol.NegotiateCodec("", false); got != protocol.JSONLinesEmbedded {
		t.Errorf("without raw data: %s", got)
	}
	if got := protocol.NegotiateCodec(b, false); got != protocol.BSON {
		t.Errorf("BSON without raw data: %s", got)
	}
	if protocol.JSONLines.ContentType() != n || protocol.JSONLinesEmbedded.ContentType() != n || protocol.BSON.ContentType() != b {
		t.Error("wrong content types")
	}
}

func TestNegotiateEncoding(t *testing.T) {
	for accept, want := range map[string]protocol.Encoding{
		"":                             protocol.Identity,
		"br":                           protocol.Identity,
		"identity":                     protocol.Identity,
		"gzip, deflate":                protocol.Gzip,
		"gzip, deflate, br, zstd":      protocol.Zstd,
		"zstd, gzip":                   protocol.Zstd,
		"gzip, zstd":                   protocol.Zstd,
		"*":                            protocol.Zstd,
		"zstd;q=0.5, gzip":             protocol.Gzip,
		"zstd;q=0, *":                  protocol.Gzip,
		"zstd;q=0, gzip;q=0, *":        protocol.Identity,
		"GZIP":                         protocol.Gzip,
		"gzip;q=0":                     protocol.Identity,
		"gzip;q=0.5":                   protocol.Gzip,
		"identity, gzip;q=0.5":         protocol.Identity,
		"identity;q=0":                 protocol.Identity,
		"*;q=0":                        protocol.Identity,
		"identity;q=0.2, *;q=0.1":      protocol.Identity,
		"br;q=1, gzip;q=0.3, zstd;q=1": protocol.Zstd,
	} {
		if got := protocol.NegotiateEncoding(accept); got != want {
			t.Errorf("%q: %s, want %s", accept, got, want)
		}
	}
}

func FuzzNegotiate(f *testing.F) {
	f.Add("application/vnd.powersync.bson-stream;q=0.9,application/x-ndjson;q=0.8")
	f.Add("gzip;q=0.5, *")
	f.Fuzz(func(t *testing.T, accept string) {
		if c := protocol.NegotiateCodec(accept, true); c != protocol.JSONLines && c != protocol.BSON {
			t.Errorf("codec %s", c)
		}
		if e := protocol.NegotiateEncoding(accept); e > protocol.Zstd {
			t.Errorf("encoding %d", e)
		}
	})
}
