package sim

import (
	"fmt"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/internal/storage"
)

// journal knows the content of every entry of every bucket, as published and as
// committed since, and lets no entry be put again with the content that it has: what
// did not change is not sent, whatever happens.
type journal struct {
	published map[entryKey]string
	since     map[entryKey]string
}

type entryKey struct {
	bucket storage.BucketKey
	id     string
	subkey bucket.Subkey
}

const removed = "removed"

func newJournal() *journal {
	return &journal{published: map[entryKey]string{}, since: map[entryKey]string{}}
}

// add takes note of a batch.
func (j *journal) add(b *storage.Batch) error {
	for i := range b.Ops {
		o := &b.Ops[i]
		k := entryKey{o.Bucket, o.Op.ObjectID, o.Op.Subkey}
		has, ok := j.since[k]
		if !ok {
			has, ok = j.published[k]
		}
		switch {
		case o.Op.Kind == bucket.Remove && (!ok || has == removed):
			return fmt.Errorf("op %s removes %s from %v, which does not hold it", o.Op.ID, o.Op.ObjectID, o.Bucket)
		case o.Op.Kind == bucket.Remove:
			j.since[k] = removed
		case ok && has == string(o.Op.Data):
			return fmt.Errorf("op %s puts %s into %v again, as it is: %s", o.Op.ID, o.Op.ObjectID, o.Bucket, o.Op.Data)
		default:
			j.since[k] = string(o.Op.Data)
		}
	}
	return nil
}

// keep makes everything part of what is published, takeBack forgets what is not.
func (j *journal) keep() {
	for k, v := range j.since {
		j.published[k] = v
	}
	clear(j.since)
}

func (j *journal) takeBack() { clear(j.since) }
