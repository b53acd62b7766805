//go:build unix

// Package chaos breaks the real system on purpose and checks what is left: the
// built service on a real Postgres, and devices of both SDKs with the notes app's
// backend, under load, while processes are killed and connections fail.
//
// It is for tests only, and belongs to two suites, which are this package's tests:
//
//   - Service rounds: random transactions, faults at random moments, and Viewers,
//     model clients that check each checkpoint they complete. Every transaction
//     ends by sealing the groups of rows that it changed: the seal row of a group
//     holds a digest of all its other rows. So a client can tell by itself whether
//     what it shows was ever the state of the database: see Check.
//   - Client rounds: devices that write and read locally, and writers in Postgres.
//     All they did is a History, which Verify checks against the order in which
//     Postgres applied it.
//
// The rest are the tools: Proxy, a network that fails, and Load.
//
// Invariants:
//   - A round follows from its seed: what is done, and after how many commits. How
//     the processes' steps fall between each other does not.
//   - Nothing waits for time to pass, but for commits, lines and processes, each with
//     a deadline. A Proxy's delays are its purpose.
//   - What can fail a round is shown to fail: the checkers have tests of their own,
//     with states and histories that are wrong.
package chaos
