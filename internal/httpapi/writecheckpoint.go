package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/millrace-sync/millrace/internal/bucket"
	"github.com/millrace-sync/millrace/protocol"
)

// catchUpTimeout is how long GET /write-checkpoint.json waits for replication.
const catchUpTimeout = 50 * time.Second

// writeCheckpoint serves GET /write-checkpoint2.json.
func (h *Handler) writeCheckpoint(w http.ResponseWriter, r *http.Request) {
	claims, err := h.Verifier.Verify(r.Context(), r.Header.Get("Authorization"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	id, err := h.WriteCheckpoints.Request(r.Context(), userKey(claims, r.URL.Query().Get("client_id")), 0)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	reply(w, http.StatusOK, protocol.AppendWriteCheckpoint(nil, id))
}

// checkpointRequest serves POST /sync/checkpoint-request.
func (h *Handler) checkpointRequest(w http.ResponseWriter, r *http.Request) {
	b, err := body(w, r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	req, err := protocol.DecodeCheckpointRequest(b)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	claims, err := h.Verifier.Verify(r.Context(), r.Header.Get("Authorization"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	id, err := h.WriteCheckpoints.Request(r.Context(), userKey(claims, req.ClientID), req.ID)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	reply(w, http.StatusOK, protocol.AppendCheckpointRequested(nil, id))
}

// catchUp serves GET /write-checkpoint.json, of clients that know no write
// checkpoints: it answers once everything that the client uploaded is replicated,
// with the checkpoint at which it is.
func (h *Handler) catchUp(w http.ResponseWriter, r *http.Request) {
	claims, err := h.Verifier.Verify(r.Context(), r.Header.Get("Authorization"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	op, err := h.waitForUploads(r.Context(), userKey(claims, r.URL.Query().Get("client_id")))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	answer(w, http.StatusOK, map[string]any{"data": map[string]string{"checkpoint": op.String()}})
}

// waitForUploads returns the first checkpoint seen that includes all that the
// source has now.
func (h *Handler) waitForUploads(ctx context.Context, user string) (bucket.OpID, error) {
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	watcher := h.Hub.Watch(user)
	defer watcher.Close()
	if _, err := h.WriteCheckpoints.Request(ctx, user, 0); err != nil {
		return 0, err
	}
	wc, _, err := h.Store.WriteCheckpoint(user)
	if err != nil {
		return 0, err
	}
	for {
		latest := h.Hub.Latest()
		if latest.LSN >= wc.LSN {
			return latest.Op, nil
		}
		watcher.Await(wc.LSN)
		select {
		case <-watcher.C():
		case <-h.Draining:
			return 0, errStopping()
		case <-ctx.Done():
			e := protocol.Errorf(protocol.BadRequest, "Replication did not reach the write checkpoint within %s. Try again.", catchUpTimeout)
			e.Status, e.Name = http.StatusInternalServerError, "ServiceError"
			return 0, e
		}
	}
}

func errStopping() error {
	return protocol.Errorf(protocol.ShuttingDown, "The service is stopping; try again.")
}
