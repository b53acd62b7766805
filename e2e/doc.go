// Package e2e tests the product as its users have it: the built binaries, a real
// Postgres, the notes app's backend, and its terminal client on the official SDK
// for Node.js. It holds tests only.
//
// Nothing here is skipped: a machine without the PostgreSQL server or the client's
// packages fails, and is told to run scripts/deps.
package e2e
