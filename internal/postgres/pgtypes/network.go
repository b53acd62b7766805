package pgtypes

import (
	"encoding/binary"
	"strconv"
)

// inetCodec is of inet and cidr. Both print an address and the length of its mask:
// inet leaves out the longest one, cidr never does.
var inetCodec = codec{parse: verbatim, unpack: unpackInet}

// The address families of the send form.
const (
	familyIPv4 = 2
	familyIPv6 = 3
)

func unpackInet(dst, b []byte) ([]byte, error) {
	if len(b) < 4 || int(b[3]) != len(b)-4 {
		return dst, malformed("a network address of %d bytes", len(b))
	}
	family, bits, isCIDR, addr := b[0], int(b[1]), b[2] != 0, b[4:]
	switch {
	case family == familyIPv4 && len(addr) == 4:
		dst = appendIPv4(dst, addr)
	case family == familyIPv6 && len(addr) == 16:
		dst = appendIPv6(dst, addr)
	default:
		return dst, malformed("a network address of family %d in %d bytes", family, len(addr))
	}
	if bits > 8*len(addr) {
		return dst, malformed("a network mask of %d bits", bits)
	}
	if isCIDR || bits != 8*len(addr) {
		dst = append(dst, '/')
		dst = strconv.AppendInt(dst, int64(bits), 10)
	}
	return dst, nil
}

func appendIPv4(dst, addr []byte) []byte {
	for i, c := range addr {
		if i > 0 {
			dst = append(dst, '.')
		}
		dst = strconv.AppendUint(dst, uint64(c), 10)
	}
	return dst
}

// appendIPv6 prints as Postgres does: the first longest run of at least two zero
// words as "::", and the last four bytes of addresses that embed an IPv4 address
// dotted, by wider rules than net/netip has.
func appendIPv6(dst, addr []byte) []byte {
	var words [8]uint16
	best, bestLen := -1, 1
	for i, run := 0, 0; i < 8; i++ {
		words[i] = binary.BigEndian.Uint16(addr[2*i:])
		if words[i] != 0 {
			run = 0
			continue
		}
		if run++; run > bestLen {
			best, bestLen = i-run+1, run
		}
	}
	for i := 0; i < 8; i++ {
		if best >= 0 && i >= best && i < best+bestLen {
			if i == best {
				dst = append(dst, ':')
			}
			continue
		}
		if i > 0 {
			dst = append(dst, ':')
		}
		if i == 6 && best == 0 && (bestLen == 6 || bestLen == 5 && words[5] == 0xFFFF) {
			return appendIPv4(dst, addr[12:])
		}
		dst = strconv.AppendUint(dst, uint64(words[i]), 16)
	}
	if best >= 0 && best+bestLen == 8 {
		dst = append(dst, ':')
	}
	return dst
}
