package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// store applies uploads to the database.
type store struct {
	pool *pgxpool.Pool
}

// upload applies a user's writes in one transaction. Once it returns without an
// error every write is durable: in its table, or, for those of rejected, in the
// dead-letter table. On an error none is, and the client must send them again.
//
// Sending the same writes again leaves the same rows.
func (s *store) upload(ctx context.Context, user string, writes []write) (rejected []*rejection, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		for i := range writes {
			w := &writes[i]
			refused, err := apply(ctx, tx, user, w)
			if err != nil {
				return fmt.Errorf("apply write %d (%s %s %s): %w", i, w.Op, w.Type, w.ID, err)
			}
			if refused == nil {
				continue
			}
			refused.Index, refused.OpID, refused.Type, refused.ID = i, w.OpID, w.Type, w.ID
			if err := bury(ctx, tx, user, w, refused); err != nil {
				return fmt.Errorf("record refused write %d: %w", i, err)
			}
			rejected = append(rejected, refused)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	return rejected, nil
}

// apply runs one write under a savepoint, so that a refused one leaves the
// transaction usable. An error means that the whole upload must fail.
func apply(ctx context.Context, tx pgx.Tx, user string, w *write) (*rejection, error) {
	stmt, refused := w.plan(user)
	if refused != nil {
		return refused, nil
	}
	err := pgx.BeginFunc(ctx, tx, func(sp pgx.Tx) error {
		args := make([]any, len(stmt.args))
		for i, a := range stmt.args {
			args[i] = a
		}
		tag, err := sp.Exec(ctx, stmt.sql, args...)
		if err != nil || tag.RowsAffected() > 0 {
			return err
		}
		var exists bool
		if err := sp.QueryRow(ctx, stmt.exists, w.ID).Scan(&exists); err != nil {
			return err
		}
		if exists {
			return reject(http.StatusForbidden, "not_owner", "the row belongs to somebody else")
		}
		if stmt.missing != nil {
			return stmt.missing
		}
		return nil
	})
	if errors.As(err, &refused) {
		return refused, nil
	}
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && permanent(pgErr.Code) {
		return reject(http.StatusUnprocessableEntity, "bad_value", "%s (SQLSTATE %s)", pgErr.Message, pgErr.Code), nil
	}
	return nil, err
}

// permanent reports whether a SQLSTATE blames the written values, so that
// sending them again can never succeed. Missing tables, rights and the like
// are the operator's to repair: the client keeps its writes until then.
func permanent(sqlstate string) bool {
	if len(sqlstate) != 5 {
		return false
	}
	switch sqlstate[:2] {
	case "22", // data exception
		"23", // integrity constraint violation
		"44", // WITH CHECK OPTION violation
		"54": // program limit exceeded
		return true
	}
	return sqlstate == "P0001" // raised by a trigger
}

// bury records a refused write.
func bury(ctx context.Context, tx pgx.Tx, user string, w *write, r *rejection) error {
	digest := sha256.New()
	fmt.Fprintf(digest, "%d %s ", len(user), user)
	digest.Write(w.raw)
	_, err := tx.Exec(ctx,
		`INSERT INTO upload_dead_letter (digest, owner, write, code, reason) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
		digest.Sum(nil), user, string(w.raw), r.Code, r.Reason)
	return err
}

// ping reports whether the database answers.
func (s *store) ping(ctx context.Context) error { return s.pool.Ping(ctx) }
