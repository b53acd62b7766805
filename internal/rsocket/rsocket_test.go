package rsocket_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-sync/millrace/internal/rsocket"
)

// frames are what clients sent and got, captured: a name, the frame in hex, and
// what it says.
func frames(t testing.TB) (names []string, bytes [][]byte, says []string) {
	text, err := os.ReadFile("testdata/frames.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		name, rest, _ := strings.Cut(line, ": ")
		digits, say, _ := strings.Cut(rest, " => ")
		b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		names, bytes, says = append(names, name), append(bytes, b), append(says, say)
	}
	return names, bytes, says
}

func describe(f rsocket.Frame) string {
	s := fmt.Sprintf("stream=%d type=%d flags=%#x", f.Stream, f.Type, f.Flags)
	if f.Type == rsocket.Setup {
		s += fmt.Sprintf(" version=%d.%d keepalive=%d lifetime=%d types=%s,%s", f.Major, f.Minor, f.KeepaliveInterval, f.Lifetime, f.MetadataType, f.DataType)
	}
	if f.N > 0 {
		s += fmt.Sprintf(" n=%d", f.N)
	}
	if f.Code > 0 {
		s += fmt.Sprintf(" code=%#x", f.Code)
	}
	return s + fmt.Sprintf(" metadata=%q data=%q", f.Metadata, f.Data)
}

func TestCapturedFrames(t *testing.T) {
	names, frames, says := frames(t)
	for i, b := range frames {
		f, err := rsocket.Parse(b)
		if err != nil {
			t.Errorf("%s: %v", names[i], err)
			continue
		}
		if got := describe(f); got != says[i] {
			t.Errorf("%s:\ngot  %s\nwant %s", names[i], got, says[i])
		}
		if got := f.Append(nil); !bytes.Equal(got, b) {
			t.Errorf("%s: written again it is %x", names[i], got)
		}
		for n := range len(b) - len(f.Data) {
			if f, err := rsocket.Parse(b[:n]); err == nil {
				t.Errorf("%s: cut at %d of %d it is %s", names[i], n, len(b), describe(f))
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	_, frames, _ := frames(f)
	for _, b := range frames {
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 1, 0x19, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := rsocket.Parse(b)
		if err != nil {
			return
		}
		again, err := rsocket.Parse(frame.Append(nil))
		if err != nil {
			t.Fatalf("%x: written again: %v", b, err)
		}
		if diff := cmp.Diff(describe(frame), describe(again)); diff != "" {
			t.Fatal(diff)
		}
	})
}

// FuzzConn feeds messages, each with its length in front, to a connection.
func FuzzConn(f *testing.F) {
	_, frames, _ := frames(f)
	var seed []byte
	for _, b := range frames {
		seed = append(append(seed, byte(len(b)>>8), byte(len(b))), b...)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		c := rsocket.New()
		opened, open := false, map[uint32]bool{}
		for len(b) >= 2 {
			n := min(int(b[0])<<8|int(b[1]), len(b)-2)
			e, err := c.Receive(b[2 : 2+n])
			b = b[2+n:]
			if err != nil {
				var failure *rsocket.Failure
				if !errors.As(err, &failure) {
					t.Fatalf("%T", err)
				}
				return
			}
			switch e.Kind {
			case rsocket.Opened:
				if opened {
					t.Fatal("opened twice")
				}
				opened = true
			case rsocket.Requested:
				if open[e.Stream] || e.N == 0 {
					t.Fatalf("stream %d was requested twice or without credit", e.Stream)
				}
				open[e.Stream] = true
			case rsocket.Credited, rsocket.Cancelled:
				if !open[e.Stream] {
					t.Fatalf("stream %d is not open", e.Stream)
				}
			}
			if len(open) > rsocket.Streams || len(open) > 0 && !opened {
				t.Fatalf("%d streams are open", len(open))
			}
		}
	})
}

func setup(change func(*rsocket.Frame)) []byte {
	f := rsocket.Frame{
		Type: rsocket.Setup, Flags: rsocket.HasMetadata, Major: 1, KeepaliveInterval: 20_000, Lifetime: 90_000,
		MetadataType: rsocket.JSON, DataType: rsocket.JSON, Metadata: []byte("{}"),
	}
	if change != nil {
		change(&f)
	}
	return f.Append(nil)
}

func frame(f rsocket.Frame) []byte { return f.Append(nil) }

func request(stream uint32) []byte {
	return frame(rsocket.Frame{Stream: stream, Type: rsocket.RequestStream, N: 10, Data: []byte("{}")})
}

func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name     string
		messages [][]byte
		code     rsocket.ErrorCode
	}{
		{"nothing", [][]byte{{}}, rsocket.InvalidSetup},
		{"no setup", [][]byte{request(1)}, rsocket.InvalidSetup},
		{"setup on a stream", [][]byte{setup(func(f *rsocket.Frame) { f.Stream = 1 })}, rsocket.InvalidSetup},
		{"version", [][]byte{setup(func(f *rsocket.Frame) { f.Major = 2 })}, rsocket.UnsupportedSetup},
		{"lease", [][]byte{setup(func(f *rsocket.Frame) { f.Flags |= rsocket.WantsLease })}, rsocket.UnsupportedSetup},
		{"resume", [][]byte{setup(func(f *rsocket.Frame) { f.Flags |= rsocket.CanResume; f.ResumeToken = []byte("x") })}, rsocket.UnsupportedSetup},
		{"resume frame", [][]byte{frame(rsocket.Frame{Type: rsocket.Resume})}, rsocket.RejectedResume},
		{"lifetime", [][]byte{setup(func(f *rsocket.Frame) { f.Lifetime = 0 })}, rsocket.InvalidSetup},
		{"setup twice", [][]byte{setup(nil), setup(nil)}, rsocket.ConnectionError},
		{"garbage", [][]byte{setup(nil), {1, 2, 3}}, rsocket.ConnectionError},
		{"even stream", [][]byte{setup(nil), request(2)}, rsocket.ConnectionError},
		{"stream again", [][]byte{setup(nil), request(3), request(3)}, rsocket.ConnectionError},
		{"keepalive on a stream", [][]byte{setup(nil), frame(rsocket.Frame{Stream: 1, Type: rsocket.Keepalive})}, rsocket.ConnectionError},
		{"unknown", [][]byte{setup(nil), frame(rsocket.Frame{Type: 0x20})}, rsocket.ConnectionError},
		{"lease frame", [][]byte{setup(nil), frame(rsocket.Frame{Type: rsocket.Lease})}, rsocket.ConnectionError},
		{"client's error", [][]byte{setup(nil), frame(rsocket.Frame{Type: rsocket.Error, Code: rsocket.ConnectionClose})}, rsocket.ConnectionClose},
	} {
		conn := rsocket.New()
		for i, m := range c.messages {
			_, err := conn.Receive(m)
			var failure *rsocket.Failure
			switch last := i == len(c.messages)-1; {
			case !last && err != nil:
				t.Errorf("%s: message %d: %v", c.name, i, err)
			case last && (!errors.As(err, &failure) || failure.Code != c.code):
				t.Errorf("%s: got %#v, want code %#x", c.name, err, c.code)
			case last:
				f, err := rsocket.Parse(failure.Frame())
				if err != nil || f.Type != rsocket.Error || f.Stream != 0 || f.Code != c.code || string(f.Data) != failure.Text || !strings.HasPrefix(failure.Text, "[PSYNC_S2001] ") {
					t.Errorf("%s: frame %s, %v", c.name, describe(f), err)
				}
			}
		}
	}
}

func TestConversation(t *testing.T) {
	c := rsocket.New()
	step := func(message []byte, want rsocket.EventKind) rsocket.Event {
		t.Helper()
		e, err := c.Receive(message)
		if err != nil || e.Kind != want {
			t.Fatalf("got %+v, %v, want kind %d", e, err, want)
		}
		return e
	}
	reply := func(e rsocket.Event) string {
		t.Helper()
		f, err := rsocket.Parse(e.Reply)
		if err != nil {
			t.Fatal(err)
		}
		return describe(f)
	}
	if e := step(setup(nil), rsocket.Opened); e.Setup.Lifetime != 90_000 || string(e.Setup.Metadata) != "{}" {
		t.Errorf("got %+v", e)
	}
	e := step(frame(rsocket.Frame{Type: rsocket.Keepalive, Flags: rsocket.Respond, Position: 7, Data: []byte("abc")}), rsocket.Answer)
	if got, want := reply(e), `stream=0 type=3 flags=0x0 metadata="" data="abc"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	step(frame(rsocket.Frame{Type: rsocket.Keepalive}), rsocket.Nothing)
	if e := step(request(1), rsocket.Requested); e.Stream != 1 || e.N != 10 || string(e.Data) != "{}" {
		t.Errorf("got %+v", e)
	}
	if e := step(frame(rsocket.Frame{Stream: 1, Type: rsocket.RequestN, N: 3}), rsocket.Credited); e.Stream != 1 || e.N != 3 {
		t.Errorf("got %+v", e)
	}
	step(frame(rsocket.Frame{Stream: 1, Type: rsocket.RequestN}), rsocket.Nothing)
	for id := uint32(3); id <= 7; id += 2 {
		step(request(id), rsocket.Requested)
	}
	if got := reply(step(request(9), rsocket.Answer)); !strings.Contains(got, "stream=9 type=11 flags=0x0 code=0x202") || !strings.Contains(got, "[PSYNC_S2304]") {
		t.Errorf("got %s", got)
	}
	step(frame(rsocket.Frame{Stream: 1, Type: rsocket.Cancel}), rsocket.Cancelled)
	c.End(1)
	step(frame(rsocket.Frame{Stream: 1, Type: rsocket.Cancel}), rsocket.Nothing)
	step(frame(rsocket.Frame{Stream: 1, Type: rsocket.RequestN, N: 3}), rsocket.Nothing)
	step(request(11), rsocket.Requested)
	c.End(11)
	for _, f := range []rsocket.Frame{
		{Stream: 13, Type: rsocket.RequestResponse}, {Stream: 15, Type: rsocket.RequestChannel, N: 1},
		{Stream: 17, Type: rsocket.RequestStream, N: 1, Flags: rsocket.Follows}, {Stream: 19, Type: rsocket.RequestStream},
	} {
		if got := reply(step(frame(f), rsocket.Answer)); !strings.Contains(got, "code=0x202") || !strings.Contains(got, "[PSYNC_S2001]") {
			t.Errorf("got %s", got)
		}
	}
	step(frame(rsocket.Frame{Stream: 21, Type: rsocket.RequestFNF}), rsocket.Nothing)
	step(frame(rsocket.Frame{Stream: 3, Type: rsocket.Payload, Flags: rsocket.Next}), rsocket.Nothing)
	step(frame(rsocket.Frame{Stream: 3, Type: rsocket.Error, Code: rsocket.Invalid}), rsocket.Nothing)
	step(frame(rsocket.Frame{Type: rsocket.MetadataPush, Flags: rsocket.HasMetadata}), rsocket.Nothing)
	step(frame(rsocket.Frame{Type: 0x3f, Flags: rsocket.Ignore}), rsocket.Nothing)
}
