package main

import (
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestUntilSignal checks what each course of signals leads to, on a fake clock.
func TestUntilSignal(t *testing.T) {
	for _, c := range []struct {
		name   string
		course func(chan<- os.Signal)
		ended  bool // the context has ended before stop
		code   int  // the code of a forced end, 0 for none
		after  time.Duration
	}{
		{name: "none", course: func(chan<- os.Signal) {}},
		{name: "one", ended: true, course: func(s chan<- os.Signal) { s <- syscall.SIGTERM }},
		{name: "two", ended: true, code: exitFailed, course: func(s chan<- os.Signal) {
			s <- syscall.SIGTERM
			time.Sleep(time.Second)
			s <- syscall.SIGINT
		}, after: time.Second},
		{name: "one, and stopping hangs", ended: true, code: exitFailed, course: func(s chan<- os.Signal) {
			s <- syscall.SIGTERM
			time.Sleep(time.Hour)
		}, after: stopTime},
		{name: "one, and stopping is slow", ended: true, course: func(s chan<- os.Signal) {
			s <- syscall.SIGTERM
			time.Sleep(stopTime - time.Millisecond)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				var code int
				var after time.Duration
				signals := make(chan os.Signal, 2)
				ctx, stop := untilSignal(signals, func(c int) { code, after = c, time.Since(begin) })
				c.course(signals)
				synctest.Wait()
				if ended := ctx.Err() != nil; ended != c.ended {
					t.Errorf("the context has ended: %v, want %v", ended, c.ended)
				}
				stop()
				if ctx.Err() == nil {
					t.Error("the context has not ended after stop")
				}
				if code != c.code || after != c.after {
					t.Errorf("exit %d after %v, want %d after %v", code, after, c.code, c.after)
				}
			})
		})
	}
}
