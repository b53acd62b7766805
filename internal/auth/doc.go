// Package auth turns an Authorization header into the claims of a verified token.
//
// The server makes one [Verifier]; the HTTP and socket handlers ask it for every
// request. Keys come from the configuration and from remote key sets (JWKS), which
// are fetched when a token needs them: there is no background work, and [Verifier.Close]
// waits for fetches that are under way.
//
// Everything that decides is free of I/O and takes its clock from the Config; the
// one adapter is the HTTP client for remote key sets.
//
// Invariants:
//   - A token is accepted only if a configured key of the family that its algorithm
//     belongs to verifies it. The token never chooses the family: a public key is
//     never used as a shared secret.
//   - A verified token is remembered no longer than it is valid, and not beyond a
//     change or the expiry of the key set that verified it.
//   - A token appears in no error and no log line; what it says of itself does,
//     shortened, so that operators can find out why it was refused.
package auth
