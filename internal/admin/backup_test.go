package admin

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func archive(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 3, Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("abc")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// An archive is taken whole or not at all, and nothing of it lands elsewhere.
func TestUnpack(t *testing.T) {
	whole := archive(t, "a.sst", "LOCK", BackupEnd)
	for name, c := range map[string]struct {
		archive []byte
		ok      bool
	}{
		"whole":        {whole, true},
		"cut in files": {whole[:600], false},
		"cut between":  {whole[:1024], false},
		"without end":  {archive(t, "a.sst"), false},
		"nothing":      {nil, false},
		"upwards":      {archive(t, "../a", BackupEnd), false},
		"absolute":     {archive(t, "/a", BackupEnd), false},
		"below":        {archive(t, "b/a", BackupEnd), false},
		"twice":        {archive(t, "a", "a", BackupEnd), false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			err := unpack(bytes.NewReader(c.archive), dir)
			if (err == nil) != c.ok {
				t.Fatalf("error %v", err)
			}
			if b, err := os.ReadFile(filepath.Join(dir, "a.sst")); c.ok && (err != nil || string(b) != "abc") {
				t.Errorf("unpacked %q %v", b, err)
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "x")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		_ = unpack(bytes.NewReader(b), dir)
		if entries, _ := os.ReadDir(parent); len(entries) != 1 {
			t.Errorf("something landed beside the folder")
		}
	})
}
