package postgres

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// patient runs f with both ends of a link, of which ours may be silent for a minute,
// on a clock of its own.
func patient(t *testing.T, f func(ours *patientConn, theirs net.Conn)) {
	synctest.Test(t, func(*testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		f(&patientConn{Conn: a, patience: time.Minute}, b)
	})
}

func TestPatientConn(t *testing.T) {
	const within = time.Minute / 16 // deadlines are not moved for less
	one := make([]byte, 1)
	silent := func(t *testing.T, began time.Time, err error) {
		t.Helper()
		var s *silentError
		if took := time.Since(began); !errors.As(err, &s) || took < time.Minute-within || took > time.Minute {
			t.Errorf("%v after %v", err, took)
		}
	}
	t.Run("reading", func(t *testing.T) {
		patient(t, func(ours *patientConn, theirs net.Conn) {
			go func() {
				for range 20 { // 18 minutes in all
					time.Sleep(54 * time.Second)
					theirs.Write(one)
				}
			}()
			for range 20 {
				if _, err := ours.Read(one); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			_, err := ours.Read(one)
			silent(t, began, err)
		})
	})
	t.Run("idle", func(t *testing.T) {
		patient(t, func(ours *patientConn, theirs net.Conn) {
			for range 3 {
				go theirs.Write(one)
				if _, err := ours.Read(one); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
			}
		})
	})
	t.Run("writing", func(t *testing.T) {
		patient(t, func(ours *patientConn, theirs net.Conn) {
			const pieces = 5
			go func() {
				for range pieces { // four minutes in all
					time.Sleep(48 * time.Second)
					io.ReadFull(theirs, make([]byte, writePiece))
				}
			}()
			if n, err := ours.Write(make([]byte, pieces*writePiece)); n != pieces*writePiece || err != nil {
				t.Fatal(n, err)
			}
			began := time.Now()
			_, err := ours.Write(one)
			silent(t, began, err)
		})
	})
	t.Run("deadlines of others", func(t *testing.T) {
		patient(t, func(ours *patientConn, theirs net.Conn) {
			began := time.Now()
			ours.SetDeadline(began.Add(time.Hour))
			_, read := ours.Read(one)
			_, write := ours.Write(one)
			for _, err := range []error{read, write} {
				if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took != time.Hour {
					t.Errorf("%v after %v", err, took)
				}
			}
			ours.SetDeadline(time.Time{})
			began = time.Now()
			_, err := ours.Read(one)
			silent(t, began, err)
			began = time.Now()
			_, err = ours.Write(one)
			silent(t, began, err)
		})
	})
	t.Run("without end", func(t *testing.T) {
		patient(t, func(ours *patientConn, theirs net.Conn) {
			ours.wait(0)
			go func() {
				time.Sleep(time.Hour)
				theirs.Write(one)
			}()
			if _, err := ours.Read(one); err != nil {
				t.Error(err)
			}
		})
	})
}
