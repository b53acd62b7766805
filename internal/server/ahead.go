package server

import "github.com/millrace-sync/millrace/internal/replicate"

// lookAhead takes what waits behind an event, at most as much as the queue holds, and
// announces the rows of all to the store.
func (f *follower) lookAhead(ev event, events <-chan event) (ahead []event, err error) {
	list := make([]*replicate.Prepared, 0, 1+eventQueue)
	if ev.txn != nil {
		list = append(list, ev.txn)
	}
	for len(ahead) < eventQueue {
		select {
		case next := <-events:
			if ahead = append(ahead, next); next.txn != nil {
				list = append(list, next.txn)
			}
			continue
		default:
		}
		break
	}
	if len(ahead) == 0 {
		return nil, nil
	}
	return ahead, f.applier.Announce(list...)
}
