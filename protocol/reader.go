package protocol

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// Reader splits a response's body into lines. It belongs to one goroutine.
type Reader struct {
	src   *bufio.Reader
	codec Codec
	most  int
	buf   []byte
	d     decoder
}

// NewReader returns a Reader of the lines in src, each of at most maxLine bytes.
func NewReader(src io.Reader, c Codec, maxLine int) *Reader {
	return &Reader{src: bufio.NewReaderSize(src, 32<<10), codec: c, most: maxLine}
}

// Next returns the next line. It and what it refers to are valid until the next
// call, except for its strings. At the end of the stream the error is io.EOF, or
// io.ErrUnexpectedEOF if the stream breaks off within a line; a *LineError is a line
// that the protocol does not allow or that is too long.
func (r *Reader) Next() (Line, error) {
	var err error
	if r.codec == BSON {
		err = r.document()
	} else {
		err = r.text()
	}
	if err != nil {
		return nil, err
	}
	return r.d.line(r.codec, r.buf)
}

// Size returns the number of bytes that the last line took.
func (r *Reader) Size() int { return len(r.buf) }

// text reads a line of text that is not blank.
func (r *Reader) text() error {
	r.buf = r.buf[:0]
	for {
		part, err := r.src.ReadSlice('\n')
		if len(r.buf)+len(part) > r.most {
			return r.tooLong()
		}
		r.buf = append(r.buf, part...)
		switch {
		case err == bufio.ErrBufferFull:
		case err == io.EOF && blank(r.buf):
			return io.EOF
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != nil:
			return fmt.Errorf("read a protocol line: %w", err)
		case blank(r.buf):
			r.buf = r.buf[:0]
		default:
			return nil
		}
	}
}

// document reads a BSON document. Room is made as bytes arrive, whatever length the
// document claims.
func (r *Reader) document() error {
	head, err := r.src.Peek(4)
	switch {
	case err == io.EOF && len(head) == 0:
		return io.EOF
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	case err != nil:
		return fmt.Errorf("read a protocol line: %w", err)
	}
	n := int64(binary.LittleEndian.Uint32(head))
	if n < 5 {
		return lineError("", "a BSON document of %d bytes", n)
	}
	if n > int64(r.most) {
		return r.tooLong()
	}
	r.buf = r.buf[:0]
	for int64(len(r.buf)) < n {
		if len(r.buf) == cap(r.buf) {
			r.buf = append(r.buf, 0)[:len(r.buf)]
		}
		room := r.buf[len(r.buf):min(int64(cap(r.buf)), n)]
		got, err := r.src.Read(room)
		r.buf = r.buf[:len(r.buf)+got]
		switch {
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != nil:
			return fmt.Errorf("read a protocol line: %w", err)
		}
	}
	return nil
}

func (r *Reader) tooLong() error {
	return lineError("", "longer than %d bytes", r.most)
}
