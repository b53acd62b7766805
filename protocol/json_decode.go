package protocol

import (
	"bytes"
	"unicode/utf8"
)

func (d *decoder) jsonLine(src []byte, embed bool) (Line, error) {
	if !utf8.Valid(src) {
		return nil, lineError("", "not UTF-8")
	}
	r := &jsonReader{scanner: scanner{src: src}, d: d, embed: embed}
	if cap(d.scratch) < len(src)+8 {
		d.scratch = make([]byte, 0, len(src)+8)
	}
	r.scratch = d.scratch[:0]
	var line Line
	err := r.object(func(key []byte) error {
		if line != nil {
			return lineError("", "more than one key")
		}
		var err error
		line, err = r.value(string(key))
		return err
	})
	if err == nil {
		err = r.end()
	}
	if err != nil {
		if _, ok := err.(*syntaxError); ok {
			err = &LineError{Where: r.where, What: err.Error()}
		}
		return nil, err
	}
	if line == nil {
		return nil, lineError("", "no key")
	}
	return line, nil
}

// jsonReader reads one line of text.
type jsonReader struct {
	scanner
	d     *decoder
	embed bool
	where string
}

func (r *jsonReader) value(key string) (Line, error) {
	r.where = key
	switch key {
	case "data":
		return r.data()
	case "checkpoint":
		return r.checkpoint()
	case "checkpoint_diff":
		return r.checkpointDiff()
	case "partial_checkpoint_complete":
		return r.partialComplete()
	case "checkpoint_complete":
		return r.complete()
	case "token_expires_in":
		n, err := r.integer()
		return &TokenExpiresIn{Seconds: int(n)}, err
	}
	return &Unknown{Key: key}, r.skip()
}

func (r *jsonReader) id() (uint64, error) {
	b, err := r.str()
	if err != nil {
		return 0, err
	}
	n, ok := parseID(b)
	if !ok {
		return 0, lineError(r.where, "%.40q is not a decimal id", b)
	}
	return n, nil
}

// optionalID reads an id or null.
func (r *jsonReader) optionalID() (uint64, error) {
	if r.peek() == 'n' {
		return 0, r.word("null")
	}
	return r.id()
}

func (r *jsonReader) text() (string, error) {
	b, err := r.str()
	return string(b), err
}

func (r *jsonReader) sum() (uint32, error) {
	n, err := r.integer()
	if err != nil {
		return 0, err
	}
	c, ok := checksum(n)
	if !ok {
		return 0, lineError(r.where, "checksum %d does not fit 32 bits", n)
	}
	return c, nil
}

func (r *jsonReader) position() (int, error) {
	n, err := r.integer()
	if err == nil && (n < 0 || n > 1<<31-1) {
		err = lineError(r.where, "position %d is out of range", n)
	}
	return int(n), err
}

func (r *jsonReader) checkpoint() (*Checkpoint, error) {
	l := new(Checkpoint)
	var seen bool
	err := r.object(func(key []byte) (err error) {
		switch string(key) {
		case "last_op_id":
			seen = true
			l.LastOpID, err = r.id()
		case "write_checkpoint":
			l.WriteCheckpoint, err = r.optionalID()
		case "buckets":
			l.Buckets, err = r.buckets()
		case "streams":
			l.Streams, err = r.streams()
		default:
			err = r.skip()
		}
		return err
	})
	if err == nil && !seen {
		err = lineError(r.where, "last_op_id is missing")
	}
	return l, err
}

func (r *jsonReader) checkpointDiff() (*CheckpointDiff, error) {
	l := new(CheckpointDiff)
	var seen bool
	err := r.object(func(key []byte) (err error) {
		switch string(key) {
		case "last_op_id":
			seen = true
			l.LastOpID, err = r.id()
		case "write_checkpoint":
			l.WriteCheckpoint, err = r.optionalID()
		case "removed_buckets":
			l.RemovedBuckets = nil
			err = r.array(func(int) error {
				name, err := r.text()
				l.RemovedBuckets = append(l.RemovedBuckets, name)
				return err
			})
		case "updated_buckets":
			l.UpdatedBuckets, err = r.buckets()
		default:
			err = r.skip()
		}
		return err
	})
	if err == nil && !seen {
		err = lineError(r.where, "last_op_id is missing")
	}
	return l, err
}

func (r *jsonReader) buckets() (list []Bucket, err error) {
	err = r.array(func(int) error {
		b := Bucket{Priority: defaultPriority}
		var name, sum bool
		err := r.object(func(key []byte) (err error) {
			switch string(key) {
			case "bucket":
				name = true
				b.Name, err = r.text()
			case "checksum":
				sum = true
				b.Checksum, err = r.sum()
			case "count":
				if r.peek() == 'n' {
					return r.word("null")
				}
				b.Count, err = r.integer()
			case "priority":
				if r.peek() == 'n' {
					return r.word("null")
				}
				b.Priority, err = r.position()
			case "subscriptions":
				if r.peek() == 'n' {
					return r.word("null")
				}
				err = r.refs(&b)
			default:
				err = r.skip()
			}
			return err
		})
		if err == nil && (!name || !sum) {
			err = lineError(r.where, "a bucket without name or checksum")
		}
		list = append(list, b)
		return err
	})
	return list, err
}

func (r *jsonReader) refs(b *Bucket) error {
	b.Defaults, b.Subscriptions = nil, nil
	return r.array(func(int) error {
		n := 0
		err := r.object(func(key []byte) error {
			n++
			at, err := 0, error(nil)
			switch string(key) {
			case "default":
				at, err = r.position()
				b.Defaults = append(b.Defaults, at)
			case "sub":
				at, err = r.position()
				b.Subscriptions = append(b.Subscriptions, at)
			default:
				err = lineError(r.where, "a subscription of unknown kind %.40q", key)
			}
			return err
		})
		if err == nil && n != 1 {
			err = lineError(r.where, "a subscription with %d keys", n)
		}
		return err
	})
}

func (r *jsonReader) streams() (list []Stream, err error) {
	err = r.array(func(int) error {
		var s Stream
		seen := 0
		err := r.object(func(key []byte) (err error) {
			switch string(key) {
			case "name":
				seen |= hasName
				s.Name, err = r.text()
			case "is_default":
				seen |= hasDefault
				s.Default, err = r.boolean()
			case "errors":
				seen |= hasErrors
				s.Errors = nil
				err = r.array(func(int) error {
					e, err := r.streamError()
					s.Errors = append(s.Errors, e)
					return err
				})
			default:
				err = r.skip()
			}
			return err
		})
		if err == nil && seen != hasAll {
			err = lineError(r.where, "a stream without name, is_default or errors")
		}
		list = append(list, s)
		return err
	})
	return list, err
}

func (r *jsonReader) streamError() (e StreamError, err error) {
	e.Subscription = DefaultSubscription
	err = r.object(func(key []byte) (err error) {
		switch string(key) {
		case "subscription":
			// Any string stands for the default subscription.
			if r.peek() == '"' {
				e.Subscription = DefaultSubscription
				_, err = r.str()
				return err
			}
			e.Subscription, err = r.position()
		case "message":
			e.Message, err = r.text()
		default:
			err = r.skip()
		}
		return err
	})
	return e, err
}

func (r *jsonReader) data() (*DataChunk, error) {
	l := new(DataChunk)
	var seen bool
	r.d.ops = r.d.ops[:0]
	err := r.object(func(key []byte) (err error) {
		switch string(key) {
		case "bucket":
			seen = true
			l.Bucket, err = r.text()
		case "after":
			l.After, err = r.id()
		case "has_more":
			l.HasMore, err = r.boolean()
		case "next_after":
			l.NextAfter, err = r.id()
		case "data":
			r.d.ops = r.d.ops[:0]
			err = r.array(func(int) error { return r.op() })
		default:
			err = r.skip()
		}
		return err
	})
	if err == nil && !seen {
		err = lineError(r.where, "bucket is missing")
	}
	l.Ops = r.d.ops
	return l, err
}

func (r *jsonReader) op() error {
	var op Op
	seen := 0
	err := r.object(func(key []byte) (err error) {
		var b []byte
		switch string(key) {
		case "op_id":
			seen |= hasID
			op.ID, err = r.id()
		case "op":
			seen |= hasKind
			if b, err = r.str(); err != nil {
				return err
			}
			var ok bool
			if op.Kind, ok = parseOpKind(b); !ok {
				err = lineError(r.where, "unknown op %.40q", b)
			}
		case "object_type":
			if b, err = r.optionalStr(); err == nil {
				op.ObjectType = r.d.objectType(b)
			}
		case "object_id":
			b, err = r.optionalStr()
			op.ObjectID = string(b)
		case "checksum":
			seen |= hasChecksum
			op.Checksum, err = r.sum()
		case "subkey":
			op.Subkey, err = r.optionalStr()
		case "data":
			if r.embed && r.peek() == '{' {
				op.Data, err = r.raw()
			} else {
				op.Data, err = r.optionalStr()
			}
		default:
			err = r.skip()
		}
		return err
	})
	if err == nil {
		err = checkOp(r.where, &op, seen)
	}
	r.d.ops = append(r.d.ops, op)
	return err
}

// optionalStr reads a string or null, for which it returns nil.
func (r *jsonReader) optionalStr() ([]byte, error) {
	if r.peek() == 'n' {
		return nil, r.word("null")
	}
	b, err := r.str()
	if err != nil {
		return nil, err
	}
	return b[:len(b):len(b)], nil
}

func (r *jsonReader) partialComplete() (*PartialCheckpointComplete, error) {
	l := new(PartialCheckpointComplete)
	seen := 0
	err := r.object(func(key []byte) (err error) {
		switch string(key) {
		case "last_op_id":
			seen |= 1
			l.LastOpID, err = r.id()
		case "priority":
			seen |= 2
			l.Priority, err = r.position()
		default:
			err = r.skip()
		}
		return err
	})
	if err == nil && seen != 3 {
		err = lineError(r.where, "last_op_id or priority is missing")
	}
	return l, err
}

func (r *jsonReader) complete() (*CheckpointComplete, error) {
	l := new(CheckpointComplete)
	var seen bool
	err := r.object(func(key []byte) (err error) {
		if string(key) != "last_op_id" {
			return r.skip()
		}
		seen = true
		l.LastOpID, err = r.id()
		return err
	})
	if err == nil && !seen {
		err = lineError(r.where, "last_op_id is missing")
	}
	return l, err
}

// blank reports whether a line of text has nothing on it.
func blank(src []byte) bool { return len(bytes.TrimLeft(src, " \t\r\n")) == 0 }
