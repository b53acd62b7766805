package protocol

// Line is one message of a sync stream: a *Checkpoint, *CheckpointDiff,
// *DataChunk, *PartialCheckpointComplete, *CheckpointComplete, *TokenExpiresIn,
// or (only from a decoder) *Unknown.
type Line interface{ line() }

// defaultPriority is that of a bucket entry which gives none.
const defaultPriority = 3

// Checkpoint is the full state that a client is to reach: every bucket it may
// read, with what it must add up to.
type Checkpoint struct {
	LastOpID uint64
	// WriteCheckpoint is the newest write checkpoint of the client that this
	// checkpoint contains; 0 means none.
	WriteCheckpoint uint64
	Buckets         []Bucket
	Streams         []Stream
}

// CheckpointDiff is a new state as the difference from the last one sent. A
// WriteCheckpoint of 0 means none, not the same as before.
type CheckpointDiff struct {
	LastOpID        uint64
	WriteCheckpoint uint64
	RemovedBuckets  []string
	UpdatedBuckets  []Bucket // replacing or adding by name
}

// Bucket is a bucket's entry in a checkpoint.
type Bucket struct {
	Name string
	// Checksum is the sum of the bucket's op checksums modulo 2³². The wire has it
	// as a signed number.
	Checksum uint32
	Count    int64 // operations of all kinds
	Priority int   // 0 to 3, 0 first
	// Defaults holds positions in Checkpoint.Streams and Subscriptions positions in
	// the request's subscriptions: the ways that lead to the bucket.
	Defaults      []int
	Subscriptions []int
}

// Stream is a stream of the client's view.
type Stream struct {
	Name    string
	Default bool
	Errors  []StreamError
}

// StreamError says that a stream could not be evaluated for one subscription.
type StreamError struct {
	// Subscription is a position in the request's subscriptions, or
	// DefaultSubscription.
	Subscription int
	Message      string
}

// DefaultSubscription is the StreamError.Subscription of a stream that every
// client is subscribed to.
const DefaultSubscription = -1

// DataChunk is a run of operations of one bucket. Servers write it piecewise with
// Codec.BeginData; decoders return it whole.
type DataChunk struct {
	Bucket    string
	After     uint64 // the position that the run continues from
	HasMore   bool
	Ops       []Op
	NextAfter uint64 // the position that the run leads to
}

// OpKind is what an operation does.
type OpKind uint8

// The kinds of operation.
const (
	Put    OpKind = iota + 1 // the entry is now Data
	Remove                   // the entry is gone
	Move                     // nothing: stands in for a superseded op, to keep the sum
	Clear                    // every earlier op of the bucket is void
)

// String returns the wire's word.
func (k OpKind) String() string {
	switch k {
	case Put:
		return "PUT"
	case Remove:
		return "REMOVE"
	case Move:
		return "MOVE"
	case Clear:
		return "CLEAR"
	}
	return "unknown"
}

func parseOpKind(s []byte) (OpKind, bool) {
	switch string(s) {
	case "PUT":
		return Put, true
	case "REMOVE":
		return Remove, true
	case "MOVE":
		return Move, true
	case "CLEAR":
		return Clear, true
	}
	return 0, false
}

// Op is one operation of a bucket.
type Op struct {
	ID       uint64 // 1 to 2⁶³−1
	Kind     OpKind
	Checksum uint32
	// ObjectType, ObjectID and Subkey are set for Put and Remove.
	ObjectType string
	ObjectID   string
	Subkey     []byte
	// Data is the row as compact JSON text, for Put.
	Data []byte
}

// PartialCheckpointComplete says that all buckets up to a priority are complete.
type PartialCheckpointComplete struct {
	LastOpID uint64
	Priority int
}

// CheckpointComplete says that everything of the checkpoint has been sent.
type CheckpointComplete struct {
	LastOpID uint64
}

// TokenExpiresIn tells the seconds that the client's token is still good for. It
// is the keepalive too; 0 comes just before the end of the stream.
type TokenExpiresIn struct {
	Seconds int
}

// Unknown is a line of a kind that this package does not know; clients skip it.
type Unknown struct {
	Key string
}

func (*Checkpoint) line()                {}
func (*CheckpointDiff) line()            {}
func (*DataChunk) line()                 {}
func (*PartialCheckpointComplete) line() {}
func (*CheckpointComplete) line()        {}
func (*TokenExpiresIn) line()            {}
func (*Unknown) line()                   {}
