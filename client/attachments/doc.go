// Package attachments keeps files beside the rows that name them: photos, recordings,
// documents. Rows sync through package client; files go through a [Remote] of the
// app's, such as object storage, and lie in a [Local], such as a folder.
//
// A file is an attachment as long as a row names it. A [Queue] watches the rows,
// downloads files that are new in them, uploads those that were saved here, and
// lets go of those that no row names any more. Apps create one and run it beside
// the database.
//
// The queue's state is in a local-only table, [Table], which the schema must
// contain; its columns and states are those of the official clients.
//
// Invariants:
//   - A file's contents pass through as a stream; none is held in memory.
//   - The row that names a saved file and the queue's entry are written in one transaction.
//   - A file that has not been uploaded is removed only if Delete or Clear asks for it.
package attachments
