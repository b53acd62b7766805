// Package protocol is the sync protocol as it appears on the wire: the request a
// client sends, the lines a server answers with, the two codecs for those lines
// (JSON lines and BSON documents), and the error codes that both sides know.
//
// Servers encode lines with a [Codec] and decode requests with [DecodeRequest];
// clients do the reverse with [Request.AppendJSON], [NewReader] and [DecodeLine].
// Content negotiation is here too, as text in and a choice out.
//
// The package is pure: it has no sockets, clocks, goroutines or globals, and is
// safe for concurrent use except where a type says that it belongs to one goroutine.
//
// Invariants:
//   - Field order, number formats and string forms are exactly those that the
//     official clients were built against; golden tests hold the bytes.
//   - Encoders only append: they never fail, never read back, and allocate nothing
//     but room in dst.
//   - Decoders take bytes from anywhere. They never panic, never read past their
//     input, recurse no deeper than [MaxDepth], and use memory in proportion to it.
//   - What an encoder writes, the decoder of the same codec reads back unchanged.
package protocol
