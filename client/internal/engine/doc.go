// Package engine is the client's side of the sync protocol: lines in, rows and a
// status out. It decides which operations to keep, whether checksums hold, when
// downloaded rows may become visible, and what to ask of the service next.
//
// Its only caller is package client. One [Engine] serves one connection to the
// service, from [Start] until an [Outcome] says to close; after an error that is no
// *[ProtocolError] its transaction must be rolled back and the engine dropped. An
// engine belongs to one goroutine.
//
// The package is pure: no clock, no socket, no goroutine. Its memory of the world
// is the [Store], of which the caller owns the transactions; whatever [Status] says
// is true once the transaction has been committed.
//
// Invariants:
//   - What the tables hold after a line is what the official core extension leaves
//     there, table by table; tests compare the two.
//   - Rows become visible only as of a checkpoint whose checksums all hold, and only
//     if no local write is still on its way, priority 0 excepted.
//   - A bucket whose checksum fails is dropped whole, to be downloaded afresh.
package engine
