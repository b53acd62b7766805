package httpapi

import (
	"io"
	"net/http"
	"time"
)

// Backup is a copy of the storage on its way to an operator.
type Backup interface {
	// WriteTo writes it as a tar archive.
	io.WriterTo
	// Close removes the service's own files of it.
	Close() error
}

// backup serves GET /api/millrace/v1/backup. An archive that is not whole shows in the
// missing end of the body.
func (h *Handler) backup(w http.ResponseWriter, r *http.Request) {
	if err := h.authorizeAdmin(r.Header.Get("Authorization")); err != nil {
		h.fail(w, r, err)
		return
	}
	b, err := h.Admin.Backup(r.Context())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	_, err = b.WriteTo(&patientWriter{w, http.NewResponseController(w)})
	if cerr := b.Close(); cerr != nil {
		h.Log.Error("the files of a backup that was sent could not be removed", "error", cerr)
	}
	if err != nil {
		h.Log.Error("a backup was not sent whole", "error", err)
		panic(http.ErrAbortHandler)
	}
}

// patientWriter gives each write its own time.
type patientWriter struct {
	w  io.Writer
	rc *http.ResponseController
}

func (p *patientWriter) Write(b []byte) (int, error) {
	// An error means that the server cannot set deadlines, as in tests.
	_ = p.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	return p.w.Write(b)
}
