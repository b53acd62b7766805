package postgres_test

import (
	"net"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/millrace-sync/millrace/internal/postgres"
)

// What a connection for queries asks of the server, for the case that we go without a
// word, and what is left to whoever operates it.
func TestConnectionSettings(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct{ options, want string }{
		{"", `30s 60000 40 10 3 "$user", public 0`},
		{"-c search_path=app -c statement_timeout=5s", `30s 60000 40 10 3 app 0`},
		{"-c idle_in_transaction_session_timeout=7min", `7min 60000 40 10 3 "$user", public 0`},
	} {
		w.config.Options = tc.options
		result, err := w.connect().Exec(t.Context(), `SELECT concat_ws(' ', current_setting('idle_in_transaction_session_timeout'),
			current_setting('tcp_user_timeout'), current_setting('tcp_keepalives_idle'), current_setting('tcp_keepalives_interval'),
			current_setting('tcp_keepalives_count'), current_setting('search_path'), current_setting('statement_timeout'))`).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		if got := string(result[0].Rows[0][0]); got != tc.want {
			t.Errorf("with options %q: %s, want %s", tc.options, got, tc.want)
		}
	}
}

// A pooler refuses settings that it does not know; ours are not worth failing for.
func TestConnectThroughWhatKnowsFewSettings(t *testing.T) {
	for _, tc := range []struct {
		name, refused, code string
		connects            bool
	}{
		{"a setting for the abandoned", "tcp_user_timeout", "08P01", true},
		{"one that values depend on", "DateStyle", "08P01", false},
		{"the user", "user", "28P01", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var attempts []bool // whether each had the setting
			done := make(chan error, 1)
			go func() { done <- pooler(l, tc.refused, tc.code, &attempts) }()
			conn, err := postgres.Connect(t.Context(), postgres.Config{
				Host: "127.0.0.1", Port: uint16(l.Addr().(*net.TCPAddr).Port), User: "u", Database: "d", TLS: postgres.DisableTLS,
			})
			if (err == nil) != tc.connects {
				t.Errorf("connected: %t, %v", err == nil, err)
			}
			if err == nil {
				conn.Close(t.Context())
			}
			l.Close()
			<-done
			want := []bool{true}
			if tc.connects {
				want = []bool{true, false}
			} else if tc.code == "08P01" {
				want = []bool{true, true}
			}
			if !slices.Equal(attempts, want) {
				t.Errorf("attempts with the setting: %v, want %v", attempts, want)
			}
		})
	}
}

// pooler answers connections as a server does, but refuses those with a parameter.
func pooler(l net.Listener, refused, code string, attempts *[]bool) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		backend := pgproto3.NewBackend(conn, conn)
		msg, err := backend.ReceiveStartupMessage()
		if err != nil {
			return err
		}
		_, has := msg.(*pgproto3.StartupMessage).Parameters[refused]
		*attempts = append(*attempts, has)
		if has {
			backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: code, Message: "unsupported startup parameter: " + refused})
		} else {
			backend.Send(&pgproto3.AuthenticationOk{})
			backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		}
		if err := backend.Flush(); err != nil {
			return err
		}
		conn.Close()
	}
}
