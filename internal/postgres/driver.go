package postgres

import "github.com/jackc/pgx/v5/pgconn"

// Driver returns c as the driver's configuration of a connection for queries: what
// other adapters reach their database by. Nothing is taken from the environment.
func (c Config) Driver() (*pgconn.Config, error) {
	c = c.withDefaults()
	return c.driverConfig()
}
