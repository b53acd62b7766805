package protocol

// Codec is a form of the lines on the wire. The zero Codec is JSONLines.
type Codec uint8

// The codecs.
const (
	// JSONLines puts each line on a line of text; a row is a JSON string within it.
	JSONLines Codec = iota
	// JSONLinesEmbedded is JSONLines for clients that did not ask for raw data: a
	// row is embedded as the JSON object that it is.
	JSONLinesEmbedded
	// BSON makes each line a document, with nothing between documents.
	BSON
)

// The media types of the codecs. Clients compare them for equality, so a response
// must carry them without parameters.
const (
	NDJSONType     = "application/x-ndjson"
	BSONStreamType = "application/vnd.powersync.bson-stream"
)

// ContentType returns the media type to answer with.
func (c Codec) ContentType() string {
	if c == BSON {
		return BSONStreamType
	}
	return NDJSONType
}

// String returns the codec's name, for logs and metrics.
func (c Codec) String() string {
	switch c {
	case JSONLines:
		return "ndjson"
	case JSONLinesEmbedded:
		return "ndjson-embedded"
	case BSON:
		return "bson"
	}
	return "unknown"
}

// DataMark is the state of a data line that is being written. It holds positions
// in dst, which may be moved but not cut or edited between calls.
type DataMark struct {
	line, doc, ops int // where the enclosing BSON documents begin
	more           int // where has_more stands
	n              int // operations so far
}

// Ops returns the number of operations in the line.
func (w *DataMark) Ops() int { return w.n }

// BeginData starts a data line with the operations of bucket that follow after.
func (c Codec) BeginData(dst []byte, bucket string, after uint64) ([]byte, DataMark) {
	if c == BSON {
		return beginBSONData(dst, bucket, after)
	}
	return beginJSONData(dst, bucket, after)
}

// AppendOp adds an operation to the data line.
func (c Codec) AppendOp(dst []byte, w *DataMark, op *Op) []byte {
	if c == BSON {
		return appendBSONOp(dst, w, op)
	}
	return appendJSONOp(dst, w, op, c == JSONLinesEmbedded)
}

// EndData completes the data line.
func (c Codec) EndData(dst []byte, w DataMark, hasMore bool, nextAfter uint64) []byte {
	if c == BSON {
		return endBSONData(dst, w, hasMore, nextAfter)
	}
	return endJSONData(dst, w, hasMore, nextAfter)
}

// AppendCheckpoint appends l.
func (c Codec) AppendCheckpoint(dst []byte, l *Checkpoint) []byte {
	if c == BSON {
		return appendBSONCheckpoint(dst, l)
	}
	return appendJSONCheckpoint(dst, l)
}

// AppendCheckpointDiff appends l.
func (c Codec) AppendCheckpointDiff(dst []byte, l *CheckpointDiff) []byte {
	if c == BSON {
		return appendBSONCheckpointDiff(dst, l)
	}
	return appendJSONCheckpointDiff(dst, l)
}

// AppendPartialCheckpointComplete appends l.
func (c Codec) AppendPartialCheckpointComplete(dst []byte, l *PartialCheckpointComplete) []byte {
	if c == BSON {
		return appendBSONPartialComplete(dst, l)
	}
	return appendJSONPartialComplete(dst, l)
}

// AppendCheckpointComplete appends l.
func (c Codec) AppendCheckpointComplete(dst []byte, l *CheckpointComplete) []byte {
	if c == BSON {
		return appendBSONComplete(dst, l)
	}
	return appendJSONComplete(dst, l)
}

// AppendTokenExpiresIn appends l.
func (c Codec) AppendTokenExpiresIn(dst []byte, l *TokenExpiresIn) []byte {
	if c == BSON {
		return appendBSONTokenExpiresIn(dst, l)
	}
	return appendJSONTokenExpiresIn(dst, l)
}

// AppendDataChunk appends a data line whose operations are all at hand.
func (c Codec) AppendDataChunk(dst []byte, l *DataChunk) []byte {
	dst, w := c.BeginData(dst, l.Bucket, l.After)
	for i := range l.Ops {
		dst = c.AppendOp(dst, &w, &l.Ops[i])
	}
	return c.EndData(dst, w, l.HasMore, l.NextAfter)
}
