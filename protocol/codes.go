package protocol

// Code identifies an error to clients and operators and stays the same across
// versions. It is itself an error, so that errors.Is(err, TokenExpired) holds for
// every error that carries it.
type Code string

// Error returns the code.
func (c Code) Error() string { return string(c) }

// Sync config and operation.
const (
	// SyncConfigInvalid: the sync config does not parse or compile; the message
	// names the place.
	SyncConfigInvalid Code = "PSYNC_R0001"
	// TeardownUnconfirmed: the teardown command lacks its confirming argument.
	TeardownUnconfirmed Code = "PSYNC_S0102"
)

// Replication from the source. Operators see these in logs and diagnostics.
const (
	// RowTooLarge: a row is over the size limit and is replicated as an empty row.
	RowTooLarge Code = "PSYNC_S1002"
	// ReplicationLocked: another process replicates; normal during a rolling restart.
	ReplicationLocked Code = "PSYNC_S1003"
	// ValueTooDeep: a JSON value of a row nests too deep.
	ValueTooDeep Code = "PSYNC_S1004"
	// StorageVersionUnsupported: the store was written by an incompatible version.
	StorageVersionUnsupported Code = "PSYNC_S1005"
	// ReplicationAssertion: the source sent what it never should: a bug on one side.
	ReplicationAssertion Code = "PSYNC_S1101"
	// SourceCACertMissing: sslmode verify-ca needs cacert.
	SourceCACertMissing Code = "PSYNC_S1104"
	// SourceDatabaseMissing: the connection names no database.
	SourceDatabaseMissing Code = "PSYNC_S1105"
	// SourceHostMissing: the connection names no host.
	SourceHostMissing Code = "PSYNC_S1106"
	// SourceUserMissing: the connection names no user.
	SourceUserMissing Code = "PSYNC_S1107"
	// SourcePasswordMissing: the connection gives no password.
	SourcePasswordMissing Code = "PSYNC_S1108"
	// SourceURIInvalid: the connection's uri does not parse.
	SourceURIInvalid Code = "PSYNC_S1109"
	// SourcePortInvalid: the connection's port is out of range.
	SourcePortInvalid Code = "PSYNC_S1110"
	// SourceQueryFailed: the source database refused a query.
	SourceQueryFailed Code = "PSYNC_S1120"
	// SourceTimeout: the source database did not answer in time.
	SourceTimeout Code = "PSYNC_S1121"
	// PublicationMissing: the publication does not exist on the source.
	PublicationMissing Code = "PSYNC_S1141"
	// PublicationIncomplete: the publication leaves out some kinds of change.
	PublicationIncomplete Code = "PSYNC_S1142"
	// PublicationViaRoot: the publication's publish_via_partition_root is not what
	// replication of its partitioned tables needs.
	PublicationViaRoot Code = "PSYNC_S1143"
	// ServerShared: source and storage share a server that is too old for it.
	ServerShared Code = "PSYNC_S1144"
	// RowSecurityHidesRows: row level security applies to the replication role.
	RowSecurityHidesRows Code = "PSYNC_S1145"
	// SlotLost: the source invalidated the replication slot.
	SlotLost Code = "PSYNC_S1146"
)

// Requests.
const (
	// BadRequest: the request does not have the form it must have (400), or, with
	// status 500, the service failed in a way that has no code of its own.
	BadRequest Code = "PSYNC_S2001"
	// RouteNotFound: no such path or method (404).
	RouteNotFound Code = "PSYNC_S2002"
	// ShuttingDown: the process is about to stop; try again (503).
	ShuttingDown Code = "PSYNC_S2003"
	// MediaTypeUnsupported: the client announced a media type that is not known (415).
	MediaTypeUnsupported Code = "PSYNC_S2004"

	// Unauthorized: the token could not be verified (401).
	Unauthorized Code = "PSYNC_S2101"
	// TokenExpired: the token's exp has passed (401).
	TokenExpired Code = "PSYNC_S2103"
	// TokenLifetimeTooLong: the token is valid for longer than allowed (401).
	TokenLifetimeTooLong Code = "PSYNC_S2104"
	// AudienceMismatch: none of the token's audiences is configured (401).
	AudienceMismatch Code = "PSYNC_S2105"
	// TokenMissing: there is no usable Authorization header (401).
	TokenMissing Code = "PSYNC_S2106"

	// KeysInvalid: a key set is not what it must be (401).
	KeysInvalid Code = "PSYNC_S2201"
	// KeysAddressRefused: the key set's host is at an address that is not allowed (401).
	KeysAddressRefused Code = "PSYNC_S2203"
	// KeysUnavailable: the key set could not be fetched (401).
	KeysUnavailable Code = "PSYNC_S2204"

	// NoSyncConfig: no sync config is deployed, or the first is still being
	// backfilled (500).
	NoSyncConfig Code = "PSYNC_S2302"
	// TooManyConnections: the process serves as many clients as it may (429).
	TooManyConnections Code = "PSYNC_S2304"
	// LimitExceeded: the client needs more buckets or lookup results than allowed (400).
	LimitExceeded Code = "PSYNC_S2305"
)

// Configuration and administration.
const (
	// KeysURIInvalid: a jwks_uri does not parse.
	KeysURIInvalid Code = "PSYNC_S3102"
	// KeysSchemeInvalid: a jwks_uri is neither http nor https.
	KeysSchemeInvalid Code = "PSYNC_S3103"
	// ConfigInvalid: the service's configuration is not valid.
	ConfigInvalid Code = "PSYNC_S3201"
	// NothingToReprocess: no sync config is active (422).
	NothingToReprocess Code = "PSYNC_S4104"
	// DeployDisabled: the configuration file supplies the sync config, so it cannot
	// be deployed through the API (422).
	DeployDisabled Code = "PSYNC_S4105"
	// DeployBusy: another sync config is being deployed (409).
	DeployBusy Code = "PSYNC_S4106"
)

// Bodies that never reach a route. The codes are those of the web framework whose
// answers clients know.
const (
	// BodyNotJSON: the body is not valid JSON (400).
	BodyNotJSON Code = "FST_ERR_CTP_INVALID_JSON_BODY"
	// BodyEmpty: the content type says JSON and there is no body (400).
	BodyEmpty Code = "FST_ERR_CTP_EMPTY_JSON_BODY"
	// BodyTypeUnsupported: no route takes bodies of this content type (415).
	BodyTypeUnsupported Code = "FST_ERR_CTP_INVALID_MEDIA_TYPE"
	// BodyTooLarge: the body is over the size limit (413).
	BodyTooLarge Code = "FST_ERR_CTP_BODY_TOO_LARGE"
)

// class returns the HTTP status, the name and the severity that errors of a code
// have unless they say otherwise.
func (c Code) class() (status int, name, severity string) {
	switch c {
	case BadRequest:
		return 400, "ValidationError", ""
	case RouteNotFound:
		return 404, "RouteNotFound", "info"
	case ShuttingDown:
		return 503, "ServiceError", ""
	case MediaTypeUnsupported:
		return 415, "ServiceError", ""
	case Unauthorized, TokenExpired, TokenLifetimeTooLong, AudienceMismatch, TokenMissing,
		KeysInvalid, KeysAddressRefused, KeysUnavailable:
		return 401, "AuthorizationError", ""
	case TooManyConnections:
		return 429, "ServiceError", ""
	case LimitExceeded:
		return 400, "ServiceError", ""
	case SyncConfigInvalid, NothingToReprocess, DeployDisabled:
		return 422, "ServiceError", ""
	case DeployBusy:
		return 409, "ServiceError", ""
	case BodyNotJSON, BodyEmpty:
		return 400, "FastifyError", ""
	case BodyTypeUnsupported:
		return 415, "FastifyError", ""
	case BodyTooLarge:
		return 413, "FastifyError", ""
	}
	return 500, "ServiceError", ""
}
