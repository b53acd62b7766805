package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/millrace-sync/millrace/internal/streams"
)

// The variables that say where the configuration and the sync config are.
const (
	envBase64     = "POWERSYNC_CONFIG_B64"
	envPath       = "POWERSYNC_CONFIG_PATH"
	envSyncBase64 = "POWERSYNC_SYNC_CONFIG_B64"
	envSyncOld    = "POWERSYNC_SYNC_RULES_B64"
)

// defaultFile is read from the working directory if nothing else is named.
const defaultFile = "powersync.yaml"

// maxFile bounds the size of the configuration and of the sync config, in bytes.
const maxFile = 8 << 20

// Input says where to look for a configuration: in Base64, else in the file Path,
// else in powersync.yaml. An empty field falls back to its variable.
type Input struct {
	Base64     string // POWERSYNC_CONFIG_B64
	Path       string // POWERSYNC_CONFIG_PATH
	SyncBase64 string // POWERSYNC_SYNC_CONFIG_B64, POWERSYNC_SYNC_RULES_B64
	// LookupEnv reads the environment, as os.LookupEnv does.
	LookupEnv func(name string) (string, bool)
}

// env returns a variable's value, or "" if it is not set.
func (in *Input) env(name string) string {
	v, _ := in.LookupEnv(name)
	return v
}

// Load finds and reads the configuration. It returns the warnings with it, or an
// *Invalid that holds every mistake and warning.
func Load(in Input) (*Config, Problems, error) {
	doc, dir, p := open(in)
	if p != nil {
		return nil, nil, &Invalid{Problems{*p}}
	}
	r := &reader{doc: doc, lookupEnv: in.LookupEnv}
	cfg := r.read(in, dir)
	problems := r.finish()
	if problems.Errors() > 0 {
		return nil, nil, &Invalid{problems}
	}
	return cfg, problems, nil
}

// read parses the document and reads it. The result is nil if it does not parse.
func (r *reader) read(in Input, dir string) *Config {
	tree, p := r.doc.parse()
	if p != nil {
		r.doc.showKey(p.Line)
		r.problems = append(r.problems, p)
		return nil
	}
	return r.config(node{Node: follow(tree)}, in, dir)
}

// finish returns the problems in order, each with what may be shown of its line.
func (r *reader) finish() Problems {
	out := make(Problems, len(r.problems))
	for i, p := range r.problems {
		if p.Line > 0 && p.File == r.doc.file {
			p.Snippet, p.Caret, p.Width = r.doc.snippet(p.Line, p.Column, p.Width)
		}
		out[i] = *p
	}
	return out.sort()
}

// open finds the configuration and returns its text and the directory that paths in
// it are relative to.
func open(in Input) (*document, string, *Problem) {
	if text, name := in.Base64, "--config-base64"; text != "" || in.env(envBase64) != "" {
		if text == "" {
			text, name = in.env(envBase64), envBase64
		}
		b, err := decodeBase64(text)
		if err != nil {
			return nil, "", &Problem{Severity: streams.Error, File: name, Message: err.Error(),
				Hint: "encode the whole file, as with: base64 -w0 powersync.yaml"}
		}
		return newDocument(name, string(trimBOM(b))), "", nil
	}
	path, named := in.Path, true
	if path == "" {
		path = in.env(envPath)
	}
	if path == "" {
		path, named = defaultFile, false
	}
	b, err := readFile(path)
	if err != nil {
		p := &Problem{Severity: streams.Error, File: path, Message: err.Error()}
		if errors.Is(err, fs.ErrNotExist) && !named {
			p.Message = "there is no configuration"
			p.Hint = "name one by -c FILE or " + envPath + ", or put " + defaultFile + " into the working directory"
		}
		return nil, "", p
	}
	return newDocument(path, string(trimBOM(b))), filepath.Dir(path), nil
}

// readFile reads a file of bounded size. Its errors do not repeat the path.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", unwrapPath(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", unwrapPath(err))
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("is larger than %d MiB", maxFile>>20)
	}
	return b, nil
}

// SyncFile reads a sync config from a file. Its errors do not repeat the path.
func SyncFile(path string) (streams.Source, error) {
	b, err := readFile(path)
	if err != nil {
		return streams.Source{}, err
	}
	b = trimBOM(b)
	if !utf8.Valid(b) {
		return streams.Source{}, errors.New("is not UTF-8")
	}
	return streams.Source{File: path, Text: string(b)}, nil
}

func unwrapPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// decodeBase64 reads any of the usual forms, with or without line breaks.
func decodeBase64(s string) ([]byte, error) {
	s = strings.Map(func(c rune) rune {
		switch c {
		case ' ', '\t', '\r', '\n', '=':
			return -1
		case '-':
			return '+'
		case '_':
			return '/'
		}
		return c
	}, s)
	b, err := base64.RawStdEncoding.DecodeString(s)
	if err != nil {
		return nil, errors.New("is not base64")
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("is larger than %d MiB", maxFile>>20)
	}
	return b, nil
}
