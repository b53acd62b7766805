package pgtypes

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// The codecs of types whose value is their text, as it is.
var (
	// textCodec is of types whose binary form is their text too.
	textCodec = codec{
		parse:  verbatim,
		unpack: func(dst, b []byte) ([]byte, error) { return append(dst, b...), nil },
		direct: func(b []byte, _ source.Form) (source.Value, error) { return source.String(share(b)), nil },
	}
	// opaqueCodec is of types whose binary form is not understood.
	opaqueCodec = codec{parse: verbatim}

	jsonCodec     = codec{parse: verbatim, unpack: textCodec.unpack, direct: textCodec.direct, json: true}
	jsonbCodec    = codec{parse: verbatim, unpack: unpackJSONB, direct: directJSONB, json: true}
	uuidCodec     = codec{parse: verbatim, unpack: unpackUUID}
	bitCodec      = codec{parse: verbatim, unpack: unpackBits}
	macaddrCodec  = codec{parse: verbatim, unpack: unpackMAC(6)}
	macaddr8Codec = codec{parse: verbatim, unpack: unpackMAC(8)}
	// geometryCodec is of PostGIS types, whose text is the hex form of their binary.
	geometryCodec = codec{parse: verbatim, unpack: unpackEWKB}
)

func verbatim(s string, _ source.Form) (source.Value, error) { return source.String(s), nil }

// jsonbVersion is the first byte of jsonb's binary form, before its text.
const jsonbVersion = 1

func unpackJSONB(dst, b []byte) ([]byte, error) {
	if len(b) == 0 || b[0] != jsonbVersion {
		return dst, malformed("a jsonb is not of version %d", jsonbVersion)
	}
	return append(dst, b[1:]...), nil
}

func directJSONB(b []byte, _ source.Form) (source.Value, error) {
	if len(b) == 0 || b[0] != jsonbVersion {
		return source.Value{}, malformed("a jsonb is not of version %d", jsonbVersion)
	}
	return source.String(share(b[1:])), nil
}

func unpackUUID(dst, b []byte) ([]byte, error) {
	if len(b) != 16 {
		return dst, malformed("a uuid of %d bytes", len(b))
	}
	var text [36]byte
	n := 0
	for i, c := range b {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			text[n] = '-'
			n++
		}
		text[n], text[n+1] = lowerHex[c>>4], lowerHex[c&0xF]
		n += 2
	}
	return append(dst, text[:]...), nil
}

const (
	lowerHex = "0123456789abcdef"
	upperHex = "0123456789ABCDEF"
)

func unpackBits(dst, b []byte) ([]byte, error) {
	if len(b) < 4 {
		return dst, malformed("a bit string of %d bytes", len(b))
	}
	n := int64(binary.BigEndian.Uint32(b))
	b = b[4:]
	if (n+7)/8 != int64(len(b)) {
		return dst, malformed("a bit string of %d bits in %d bytes", n, len(b))
	}
	for i := range int(n) {
		dst = append(dst, '0'+b[i/8]>>(7-i%8)&1)
	}
	return dst, nil
}

func unpackMAC(size int) func(dst, b []byte) ([]byte, error) {
	return func(dst, b []byte) ([]byte, error) {
		if len(b) != size {
			return dst, malformed("a hardware address of %d bytes, want %d", len(b), size)
		}
		for i := range b {
			if i > 0 {
				dst = append(dst, ':')
			}
			dst = hex.AppendEncode(dst, b[i:i+1])
		}
		return dst, nil
	}
}

func unpackEWKB(dst, b []byte) ([]byte, error) {
	for _, c := range b {
		dst = append(dst, upperHex[c>>4], upperHex[c&0xF])
	}
	return dst, nil
}

// boolCodec gives 1 or 0.
var boolCodec = codec{
	parse: func(s string, _ source.Form) (source.Value, error) {
		switch s {
		case "t":
			return source.Bool(true), nil
		case "f":
			return source.Bool(false), nil
		}
		return source.Value{}, malformed("a boolean is t or f")
	},
	unpack: func(dst, b []byte) ([]byte, error) {
		if len(b) != 1 {
			return dst, malformed("a boolean of %d bytes", len(b))
		}
		if b[0] != 0 {
			return append(dst, 't'), nil
		}
		return append(dst, 'f'), nil
	},
	direct: func(b []byte, _ source.Form) (source.Value, error) {
		if len(b) != 1 {
			return source.Value{}, malformed("a boolean of %d bytes", len(b))
		}
		return source.Bool(b[0] != 0), nil
	},
}

// The codecs of integers.
var (
	int2Codec = integerCodec(2, func(b []byte) int64 { return int64(int16(binary.BigEndian.Uint16(b))) })
	int4Codec = integerCodec(4, func(b []byte) int64 { return int64(int32(binary.BigEndian.Uint32(b))) })
	int8Codec = integerCodec(8, func(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) })
	oidCodec  = integerCodec(4, func(b []byte) int64 { return int64(binary.BigEndian.Uint32(b)) })
)

func integerCodec(size int, read func(b []byte) int64) codec {
	return codec{
		parse: func(s string, _ source.Form) (source.Value, error) {
			// Most integers are short and positive, for which ParseInt does too much.
			if len(s) > 0 && len(s) <= 9 {
				if n, ok := number(s); ok {
					return source.Int(int64(n)), nil
				}
			}
			i, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return source.Value{}, malformed("an integer is not decimal digits within 64 bits")
			}
			return source.Int(i), nil
		},
		unpack: func(dst, b []byte) ([]byte, error) {
			if len(b) != size {
				return dst, malformed("an integer of %d bytes, want %d", len(b), size)
			}
			return strconv.AppendInt(dst, read(b), 10), nil
		},
		direct: func(b []byte, _ source.Form) (source.Value, error) {
			if len(b) != size {
				return source.Value{}, malformed("an integer of %d bytes, want %d", len(b), size)
			}
			return source.Int(read(b)), nil
		},
	}
}

// byteaCodec gives blobs.
var byteaCodec = codec{
	parse: parseBytea,
	unpack: func(dst, b []byte) ([]byte, error) {
		return hex.AppendEncode(append(dst, `\x`...), b), nil
	},
	direct: func(b []byte, _ source.Form) (source.Value, error) { return source.Blob(share(b)), nil },
}

// parseBytea reads both formats of bytea_output: \x00ff, and the older one in
// which bytes other than printable ASCII are \ and three octal digits.
func parseBytea(s string, _ source.Form) (source.Value, error) {
	if digits, ok := strings.CutPrefix(s, `\x`); ok {
		b := make([]byte, hex.DecodedLen(len(digits)))
		if _, err := hex.Decode(b, []byte(digits)); err != nil {
			return source.Value{}, malformed("a bytea: %v", err)
		}
		return source.Blob(share(b)), nil
	}
	if strings.IndexByte(s, '\\') < 0 {
		return source.Blob(s), nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			b = append(b, s[i])
		case strings.HasPrefix(s[i+1:], `\`):
			b = append(b, '\\')
			i++
		case len(s)-i >= 4:
			c, err := strconv.ParseUint(s[i+1:i+4], 8, 8)
			if err != nil {
				return source.Value{}, malformed("a bytea's escape is not three octal digits")
			}
			b = append(b, byte(c))
			i += 3
		default:
			return source.Value{}, malformed("a bytea ends within an escape")
		}
	}
	return source.Blob(share(b)), nil
}

// lsnCodec gives write-ahead log positions with both halves padded to eight
// digits, so that they compare as text.
var lsnCodec = codec{
	parse: func(s string, _ source.Form) (source.Value, error) {
		lsn, err := source.ParseLSN(s)
		if err != nil {
			return source.Value{}, malformed("a pg_lsn is not two hexadecimal numbers joined by a slash")
		}
		return paddedLSN(lsn), nil
	},
	unpack: func(dst, b []byte) ([]byte, error) {
		if len(b) != 8 {
			return dst, malformed("a pg_lsn of %d bytes", len(b))
		}
		return append(dst, source.LSN(binary.BigEndian.Uint64(b)).String()...), nil
	},
}

func paddedLSN(lsn source.LSN) source.Value {
	var b [17]byte
	b[8] = '/'
	for i := range 16 {
		b[i+i/8] = upperHex[lsn>>(60-4*i)&0xF]
	}
	return source.String(string(b[:]))
}
