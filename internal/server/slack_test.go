package server

import "testing"

func TestSlackIsGivenBackOnceItIsQuiet(t *testing.T) {
	const mb = 1 << 20
	var s slack
	for i, look := range []struct {
		allocated uint64 // since the last look
		want      bool
	}{
		{0, false}, {3 * mb, false}, // idle
		{200 * mb, false}, {5 * mb, false}, {3 * mb, true}, // work, and its end
		{0, false}, {3 * mb, false}, // idle again
		{30 * mb, false}, {0, false}, {50 * mb, false}, {0, true}, // little by little
	} {
		if got := s.due(s.seen + look.allocated); got != look.want {
			t.Errorf("look %d: due %t, want %t", i, got, look.want)
		}
	}
}
