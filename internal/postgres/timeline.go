package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace-sync/millrace/internal/source"
)

// LeftAt returns the position at which the history of a timeline left an earlier one
// of its ancestors: what was written there beyond it, on a primary that has been
// replaced, is no part of the source any more. It is false if the timeline does not
// descend from the earlier one.
func LeftAt(ctx context.Context, c Config, timeline, earlier int32) (source.LSN, bool, error) {
	const doing = "read the history of the source"
	conn, err := connect(ctx, c.withDefaults(), true)
	if err != nil {
		return 0, false, failed("open a replication connection", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	results, err := conn.Exec(ctx, fmt.Sprintf("TIMELINE_HISTORY %d", timeline)).ReadAll()
	if err != nil {
		return 0, false, failed(doing, err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 2 {
		return 0, false, &Error{Code: codeQuery, Kind: ErrTransient, Message: doing + ": unexpected answer"}
	}
	return leftAt(string(results[0].Rows[0][1]), earlier)
}

// leftAt reads a history file: a line for each ancestor, with its number and the
// position at which the next one begins, separated by blanks.
func leftAt(history string, earlier int32) (source.LSN, bool, error) {
	for line := range strings.Lines(history) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != strconv.Itoa(int(earlier)) {
			continue
		}
		lsn, err := source.ParseLSN(words[1])
		if err != nil {
			return 0, false, fmt.Errorf("history of the source: %w", err)
		}
		return lsn, true, nil
	}
	return 0, false, nil
}
