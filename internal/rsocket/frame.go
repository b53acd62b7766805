package rsocket

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Type is a kind of frame.
type Type uint8

// The kinds of frame.
const (
	Setup           Type = 0x01
	Lease           Type = 0x02
	Keepalive       Type = 0x03
	RequestResponse Type = 0x04
	RequestFNF      Type = 0x05
	RequestStream   Type = 0x06
	RequestChannel  Type = 0x07
	RequestN        Type = 0x08
	Cancel          Type = 0x09
	Payload         Type = 0x0A
	Error           Type = 0x0B
	MetadataPush    Type = 0x0C
	Resume          Type = 0x0D
	ResumeOK        Type = 0x0E
)

// Flags are the ten flag bits of a frame's header. What some of them mean depends
// on the Type.
type Flags uint16

// The flags.
const (
	Ignore      Flags = 0x200 // who does not know the frame is to ignore it
	HasMetadata Flags = 0x100
	Follows     Flags = 0x080 // of requests and Payload: fragments follow
	Respond     Flags = 0x080 // of Keepalive: answer
	CanResume   Flags = 0x080 // of Setup: a resume token is there
	Complete    Flags = 0x040 // of Payload: the stream ends
	WantsLease  Flags = 0x040 // of Setup
	Next        Flags = 0x020 // of Payload: there is data
)

// ErrorCode is the code of an Error frame.
type ErrorCode uint32

// The codes. Those up to ConnectionClose are for stream 0.
const (
	InvalidSetup     ErrorCode = 0x001
	UnsupportedSetup ErrorCode = 0x002
	RejectedSetup    ErrorCode = 0x003
	RejectedResume   ErrorCode = 0x004
	ConnectionError  ErrorCode = 0x101
	ConnectionClose  ErrorCode = 0x102
	ApplicationError ErrorCode = 0x201
	Rejected         ErrorCode = 0x202
	Canceled         ErrorCode = 0x203
	Invalid          ErrorCode = 0x204
)

const (
	headerBytes = 6
	maxStream   = 1<<31 - 1
	maxMetadata = 1<<24 - 1
)

// Frame is one frame, without a length in front: a socket's message is one frame.
// Fields that its Type does not have are zero. Byte slices alias what was parsed.
type Frame struct {
	Stream uint32 // 31 bits
	Type   Type
	Flags  Flags

	// Of Setup; the times are milliseconds of 31 bits.
	Major, Minor           uint16
	KeepaliveInterval      uint32
	Lifetime               uint32
	ResumeToken            []byte
	MetadataType, DataType string // media types

	N        uint32 // of RequestN, RequestStream and RequestChannel: payloads wanted
	Position uint64 // of Keepalive: 63 bits
	Code     ErrorCode

	Metadata []byte // if Flags has HasMetadata
	Data     []byte
}

var errShort = errors.New("the frame is too short")

// Parse reads a frame. Frames of unknown types have a header and Data only.
func Parse(b []byte) (Frame, error) {
	if len(b) < headerBytes {
		return Frame{}, errShort
	}
	f := Frame{Stream: binary.BigEndian.Uint32(b)}
	if f.Stream > maxStream {
		return Frame{}, errors.New("the stream id has more than 31 bits")
	}
	bits := binary.BigEndian.Uint16(b[4:])
	f.Type, f.Flags = Type(bits>>10), Flags(bits&0x3ff)
	r := reader{rest: b[headerBytes:]}
	switch f.Type {
	case Setup:
		f.Major, f.Minor = r.uint16(), r.uint16()
		f.KeepaliveInterval, f.Lifetime = r.uint31(), r.uint31()
		if f.Flags&CanResume != 0 {
			f.ResumeToken = r.bytes(int(r.uint16()))
		}
		f.MetadataType, f.DataType = string(r.bytes(int(r.uint8()))), string(r.bytes(int(r.uint8())))
		f.payload(&r)
	case Keepalive:
		f.Position = r.uint63()
		f.Data = r.rest
	case RequestStream, RequestChannel:
		f.N = r.uint31()
		f.payload(&r)
	case RequestN:
		f.N = r.uint31()
	case RequestResponse, RequestFNF, Payload:
		f.payload(&r)
	case Error:
		f.Code = ErrorCode(r.uint32())
		f.Data = r.rest
	default:
		f.Data = r.rest
	}
	if r.err != nil {
		return Frame{}, fmt.Errorf("frame of type %d: %w", f.Type, r.err)
	}
	return f, nil
}

// payload reads metadata, if any, and data.
func (f *Frame) payload(r *reader) {
	if f.Flags&HasMetadata != 0 {
		f.Metadata = r.bytes(int(r.uint24()))
	}
	f.Data = r.rest
}

// reader takes fields off the front of a frame until something is missing.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) bytes(n int) []byte {
	if r.err != nil || n > len(r.rest) {
		r.fail(errShort)
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// number reads n bytes, big-endian.
func (r *reader) number(n int) (v uint64) {
	for _, c := range r.bytes(n) {
		v = v<<8 | uint64(c)
	}
	return v
}

func (r *reader) uint8() uint8   { return uint8(r.number(1)) }
func (r *reader) uint16() uint16 { return uint16(r.number(2)) }
func (r *reader) uint24() uint32 { return uint32(r.number(3)) }
func (r *reader) uint32() uint32 { return uint32(r.number(4)) }

func (r *reader) uint31() uint32 {
	n := r.number(4)
	if n > 1<<31-1 {
		r.fail(errors.New("a number has more than 31 bits"))
	}
	return uint32(n)
}

func (r *reader) uint63() uint64 {
	n := r.number(8)
	if n > 1<<63-1 {
		r.fail(errors.New("a position has more than 63 bits"))
	}
	return n
}

// Append appends the frame. Metadata is written if Flags has HasMetadata; lengths
// beyond what their fields hold are a mistake of the caller's and panic.
func (f *Frame) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, f.Stream)
	dst = binary.BigEndian.AppendUint16(dst, uint16(f.Type)<<10|uint16(f.Flags))
	switch f.Type {
	case Setup:
		dst = binary.BigEndian.AppendUint16(dst, f.Major)
		dst = binary.BigEndian.AppendUint16(dst, f.Minor)
		dst = binary.BigEndian.AppendUint32(dst, f.KeepaliveInterval)
		dst = binary.BigEndian.AppendUint32(dst, f.Lifetime)
		if f.Flags&CanResume != 0 {
			dst = append(binary.BigEndian.AppendUint16(dst, uint16(fits(len(f.ResumeToken), 1<<16-1))), f.ResumeToken...)
		}
		for _, s := range []string{f.MetadataType, f.DataType} {
			dst = append(append(dst, byte(fits(len(s), 255))), s...)
		}
		dst = f.appendMetadata(dst)
	case Keepalive:
		dst = binary.BigEndian.AppendUint64(dst, f.Position)
	case RequestStream, RequestChannel:
		dst = f.appendMetadata(binary.BigEndian.AppendUint32(dst, f.N))
	case RequestN:
		return binary.BigEndian.AppendUint32(dst, f.N)
	case RequestResponse, RequestFNF, Payload:
		dst = f.appendMetadata(dst)
	case Error:
		dst = binary.BigEndian.AppendUint32(dst, uint32(f.Code))
	}
	return append(dst, f.Data...)
}

func (f *Frame) appendMetadata(dst []byte) []byte {
	if f.Flags&HasMetadata == 0 {
		return dst
	}
	n := fits(len(f.Metadata), maxMetadata)
	return append(append(dst, byte(n>>16), byte(n>>8), byte(n)), f.Metadata...)
}

func fits(n, most int) int {
	if n > most {
		panic(fmt.Sprintf("rsocket: %d bytes in a field for at most %d", n, most))
	}
	return n
}
