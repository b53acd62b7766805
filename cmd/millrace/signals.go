package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// stopTime is how long stopping may take.
const stopTime = 30 * time.Second

// notifySignals is process.notify for the signals of the operating system.
func notifySignals() (context.Context, context.CancelFunc) {
	signals := make(chan os.Signal, 2) // one to stop, one to force
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR2)
	ctx, stop := untilSignal(signals, os.Exit)
	return ctx, func() {
		signal.Stop(signals)
		stop()
	}
}

// notifyHangups is process.hangups for SIGHUP.
func notifyHangups() (<-chan os.Signal, func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	return signals, func() { signal.Stop(signals) }
}

// untilSignal returns a context that ends at the first signal, and calls exit at the
// second or when the work is not over stopTime after the first. The function it
// returns says that the work is over, and waits for the watching to end.
func untilSignal(signals <-chan os.Signal, exit func(int)) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	over, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		defer cancel()
		select {
		case <-signals:
			cancel()
		case <-over:
			return
		}
		limit := time.NewTimer(stopTime)
		defer limit.Stop()
		select {
		case <-signals:
			exit(exitFailed)
		case <-limit.C:
			exit(exitFailed)
		case <-over:
		}
	}()
	return ctx, func() {
		close(over)
		<-watched
	}
}
