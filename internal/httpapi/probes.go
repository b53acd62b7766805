package httpapi

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/millrace-sync/millrace/protocol"
)

// Health says how the process is doing.
type Health interface {
	// Status returns whether initial work is done, whether all is well now, and the
	// last sign of life of replication, with the reason if not all is well.
	Status() Status
}

// Status is the state that the probes show.
type Status struct {
	Started bool
	Ready   bool
	// Touched is the last sign of life of replication, or now in a process that does
	// not replicate.
	Touched time.Time
	// Reason says what is wrong when Ready is false, or is about to be, and else what
	// is to be known, for the operator.
	Reason string
}

// livenessLimit is how long replication may give no sign of life.
const livenessLimit = 10 * time.Second

// Probes serves the probes alone, for a process that serves no clients.
type Probes struct{ Health Health }

// ServeHTTP answers the probes. All else gets the documented 404.
func (p Probes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	limitBody(w, r)
	if !probe(w, r, p.Health) {
		e := notFound(r)
		reply(w, e.Status, e.AppendJSON(nil))
	}
}

// ConnState does nothing: those who may ask for probes are few.
func (Probes) ConnState(net.Conn, http.ConnState) {}

// Shutdown does nothing: no probe lasts.
func (Probes) Shutdown(context.Context) error { return nil }

func notFound(r *http.Request) *protocol.Error {
	e := protocol.Errorf(protocol.RouteNotFound, "The path does not exist on this server")
	e.Details = fmt.Sprintf("The path %s was not found for method %s", r.URL.Path, r.Method)
	return e
}

// probe answers a request if it is one of the probes.
func probe(w http.ResponseWriter, r *http.Request, health Health) bool {
	var ok func(Status) bool
	switch r.Method + " " + r.URL.Path {
	case "GET /probes/startup":
		ok = func(s Status) bool { return s.Started }
	case "GET /probes/readiness":
		ok = func(s Status) bool { return s.Ready }
	case "GET /probes/liveness":
		ok = func(s Status) bool { return time.Since(s.Touched) <= livenessLimit }
	default:
		return false
	}
	s := health.Status()
	status := http.StatusOK
	if !ok(s) {
		status = http.StatusBadRequest
	}
	answer(w, status, struct {
		Ready   bool   `json:"ready"`
		Started bool   `json:"started"`
		Touched string `json:"touched_at"`
		Reason  string `json:"reason,omitempty"`
	}{s.Ready, s.Started, s.Touched.UTC().Format("2006-01-02T15:04:05.000Z"), s.Reason})
	return true
}
