//go:build unix

package chaos

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// What Verify finds.
var (
	// ErrLost: a write that was acknowledged to an app is not in Postgres, or not as
	// it was made.
	ErrLost = errors.New("a write was lost")
	// ErrOrder: Postgres got a device's writes in another order than they were made.
	ErrOrder = errors.New("writes were reordered")
	// ErrTorn: a transaction came to Postgres in parts.
	ErrTorn = errors.New("a transaction was torn")
	// ErrView: a device showed what was no state of Postgres, from its last one on, with
	// the device's own waiting writes on top. Whatever breaks read-your-writes, monotonic
	// reads, writes-follow-reads or the atomicity of transactions in a view ends here.
	ErrView = errors.New("a device showed a state that never was")
	// ErrDiverged: at the end a device shows something else than Postgres holds.
	ErrDiverged = errors.New("a device did not converge")
	// ErrHistory: the history itself makes no sense.
	ErrHistory = errors.New("not a history")
)

// Verify checks a history. It returns all that it finds, joined; nil is a history as
// the SDKs promise it.
//
// Postgres' transactions give a list of states. A device is at one of them, its
// base, and moves only forwards; what it shows is its base with its own transactions
// on top that are not in the base yet. Transactions may be uploaded again if the
// answer was lost, but not after a later upload.
func Verify(h History) error {
	v := verifier{states: []Values{{}}, devices: map[string]*known{}}
	var found []error
	for i, e := range h {
		if e.Kind == Apply {
			if err := v.apply(h, e); err != nil {
				found = append(found, fmt.Errorf("event %d: Postgres' transaction %d: %w", i, len(v.states)-1, err))
			}
		}
	}
	for i, e := range h {
		if err := v.event(e); err != nil {
			found = append(found, fmt.Errorf("event %d: device %s: %w", i, e.Device, err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.devices)) {
		d := v.devices[name]
		for n := 1; n <= d.acknowledged; n++ {
			if _, ok := d.applied[n]; !ok {
				found = append(found, fmt.Errorf("device %s: %w: transaction %d never reached Postgres", name, ErrLost, n))
			}
		}
	}
	return errors.Join(found...)
}

type verifier struct {
	states  []Values // of Postgres: the empty one, and after each transaction
	devices map[string]*known
}

// known is what is known of a device.
type known struct {
	writes       map[int][]Op // by number
	applied      map[int]int  // number to the state in which it is first
	newest       int          // number that Postgres got last
	upload       int          // the first number of the upload that had it
	made         int          // transactions begun
	acknowledged int          // transactions known to be committed
	base         int          // state that its last view is of
}

func (v *verifier) device(name string, h History) *known {
	d := v.devices[name]
	if d == nil {
		d = &known{writes: map[int][]Op{}, applied: map[int]int{}}
		for _, e := range h {
			if e.Kind == Write && e.Device == name {
				d.writes[e.Number] = e.Ops
			}
		}
		v.devices[name] = d
	}
	return d
}

// apply adds one of Postgres' transactions, and checks that each transaction of a
// device in it does what the device meant, given what was there.
func (v *verifier) apply(h History, e Event) error {
	state := maps.Clone(v.states[len(v.states)-1])
	defer func() { v.states = append(v.states, state) }()
	if e.Device != "" { // a writer in Postgres: what it did is what it meant
		for _, op := range e.Ops {
			state.apply(op)
		}
		return nil
	}
	var found []error
	want, since := maps.Clone(state), 0
	uploading := map[*known]bool{}
	for i, op := range e.Ops {
		state.apply(op)
		name, n, ok := parseStamp(op.Value)
		if !ok {
			continue
		}
		d := v.device(name, h)
		ops, made := d.writes[n]
		if !made {
			return errors.Join(append(found, fmt.Errorf("%w: device %s made no transaction %d", ErrHistory, name, n))...)
		}
		if again := !uploading[d] && n >= d.upload && n <= d.newest; n != d.newest+1 && !again {
			found = append(found, fmt.Errorf("%w: transaction %d of device %s came after %d", ErrOrder, n, name, d.newest))
		}
		if d.newest = n; !uploading[d] {
			d.upload, uploading[d] = n, true
		}
		if _, again := d.applied[n]; !again {
			d.applied[n] = len(v.states)
		}
		for _, op := range ops {
			want.apply(op)
		}
		if text := differ(want, state); text != "" {
			found = append(found, fmt.Errorf("%w: transaction %d of device %s: %s", ErrLost, n, name, text))
			want = maps.Clone(state)
		}
		since = i + 1
	}
	if since < len(e.Ops) {
		found = append(found, fmt.Errorf("%w: it ends with ops of no transaction: %v", ErrTorn, e.Ops[since:]))
	}
	return errors.Join(found...)
}

// event follows a device.
func (v *verifier) event(e Event) error {
	if e.Kind == Apply {
		return nil
	}
	d := v.device(e.Device, History{e})
	switch e.Kind {
	case Write:
		if d.writes[e.Number] == nil {
			d.writes[e.Number] = e.Ops
		}
		if e.Number <= d.acknowledged || e.Number > d.made+1 {
			return fmt.Errorf("%w: it begins transaction %d after %d", ErrHistory, e.Number, d.made)
		}
		d.made = e.Number
	case Done:
		d.acknowledged = e.Number
	case Read:
		return v.read(d, e)
	default:
		return fmt.Errorf("%w: kind %q", ErrHistory, e.Kind)
	}
	return nil
}

// read looks for the state that a view is of.
func (v *verifier) read(d *known, e Event) error {
	// The device's stamp says whether the last transaction was committed, if it was
	// killed while committing.
	last := 0
	for _, value := range e.Rows {
		if name, n, ok := parseStamp(value); ok && name == e.Device {
			last = n
		}
	}
	switch {
	case last < d.acknowledged:
		return fmt.Errorf("%w: it shows its transaction %d, and was told that %d is committed", ErrLost, last, d.acknowledged)
	case last > d.made:
		return fmt.Errorf("%w: it shows its transaction %d and made %d", ErrHistory, last, d.made)
	}
	d.acknowledged, d.made = last, last
	if newest := len(v.states) - 1; e.Final {
		if text := differ(v.states[newest], e.Rows); text != "" {
			return fmt.Errorf("%w: %s", ErrDiverged, text)
		}
		d.base = newest
		return nil
	}
	nearest := ""
	for base := d.base; base < len(v.states); base++ {
		shown, own := maps.Clone(v.states[base]), 0
		for n := 1; n <= last; n++ {
			if at, ok := d.applied[n]; !ok || at > base {
				for _, op := range d.writes[n] {
					shown.apply(op)
				}
				own++
			}
		}
		text := differ(shown, e.Rows)
		if text == "" {
			d.base = base
			return nil
		}
		if nearest == "" || len(text) < len(nearest) {
			nearest = fmt.Sprintf("nearest to state %d, with %d of its own transactions on top: %s", base, own, text)
		}
	}
	return fmt.Errorf("%w: its last view was of state %d of %d; %s", ErrView, d.base, len(v.states)-1, nearest)
}

// differ says how two states differ; empty if they do not.
func differ(want, got Values) string {
	text := ""
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[id]; !ok {
			text += fmt.Sprintf(" lacks %s %q;", id, want[id])
		} else if g != want[id] {
			text += fmt.Sprintf(" %s is %q, not %q;", id, g, want[id])
		}
	}
	for _, id := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[id]; !ok {
			text += fmt.Sprintf(" %s %q is too much;", id, got[id])
		}
	}
	return text
}
