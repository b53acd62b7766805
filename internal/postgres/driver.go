package postgres

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"
)

// Driver returns c as the driver's configuration of a connection for queries: what
// other adapters reach their database by. Nothing is taken from the environment.
func (c Config) Driver() (*pgconn.Config, error) {
	c = c.withDefaults()
	return c.driverConfig()
}

// Reach connects once by what Driver returns. Every failure but the end of ctx is an
// *Error, which says what to do: the driver's own say less.
func Reach(ctx context.Context, c Config) error {
	c = c.withDefaults()
	pc, err := c.driverConfig()
	if err != nil {
		return err
	}
	conn, _, err := c.dial(ctx, pc)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}
