package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// secret is the key of bench/millrace.yaml.
const secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldC1zZWNyZXQ"

// service is the running service.
type service struct {
	cmd   *exec.Cmd
	begun time.Time
	url   string
	log   bytes.Buffer
}

func start(ctx context.Context, o *options, dir string) (*service, error) {
	s := &service{url: fmt.Sprintf("http://127.0.0.1:%d", o.port)}
	s.cmd = exec.CommandContext(ctx, o.bin, "start", "-c", o.config)
	s.cmd.Env = append(os.Environ(), "PS_DB="+o.dsn, "PS_STORAGE="+o.storage, "PS_DIR="+dir, "PS_PORT="+strconv.Itoa(o.port))
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.begun = time.Now()
	return s, s.cmd.Start()
}

func (s *service) stop() {
	_ = s.cmd.Process.Signal(os.Interrupt)
	_ = s.cmd.Wait()
}

// ready waits until the backfill is complete and returns how long that took.
func (s *service) ready(ctx context.Context) (time.Duration, error) {
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		resp, err := http.Get(s.url + "/probes/readiness")
		if err != nil {
			if time.Since(s.begun) > 10*time.Second {
				return 0, fmt.Errorf("the service does not answer: %w\n%s", err, s.log.String())
			}
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && bytes.Contains(body, []byte(`"ready":true`)) {
			return time.Since(s.begun), nil
		}
	}
}

// cpu returns the processor time that the service has taken.
func (s *service) cpu() time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] {
		n, _ := strconv.Atoi(f)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// machine is the processor time of all processes, and of none, at one moment.
type machine struct{ busy, idle int }

// processors reads the present moment's.
func processors() machine {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machine{}
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	var m machine
	for i, f := range strings.Fields(line)[1:] {
		n, _ := strconv.Atoi(f)
		if i == 3 || i == 4 { // idle, waiting for the disk
			m.idle += n
		} else if i < 8 { // what follows is counted twice
			m.busy += n
		}
	}
	return m
}

// since tells how busy the machine was since m.
func (m machine) since() string {
	now := processors()
	busy, idle := now.busy-m.busy, now.idle-m.idle
	return fmt.Sprintf("processors %d %% busy, %.2f s", 100*busy/max(1, busy+idle), float64(busy)/100)
}

// usage tells of the service's memory and processor time.
func (s *service) usage() string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return err.Error()
	}
	mb := map[string]int{}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && (f[0] == "VmRSS:" || f[0] == "VmHWM:") {
			kb, _ := strconv.Atoi(f[1])
			mb[f[0]] = kb >> 10
		}
	}
	return fmt.Sprintf("RSS %d MB, at most %d MB, processor %.2f s", mb["VmRSS:"], mb["VmHWM:"], s.cpu().Seconds())
}

// client is a client that reads and counts.
type client struct {
	body io.ReadCloser
	r    *bufio.Reader
	ops  int
}

// connect opens a client's stream.
func (s *service) connect(ctx context.Context, subject string) (*client, error) {
	key, err := base64.RawURLEncoding.DecodeString(secret)
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "dev"))
	if err != nil {
		return nil, err
	}
	now := time.Now().Unix()
	claims, err := json.Marshal(map[string]any{"sub": subject, "aud": "powersync", "iat": now, "exp": now + 3600})
	if err != nil {
		return nil, err
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		return nil, err
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/sync/stream", strings.NewReader(`{"buckets":[],"include_checksum":true,"raw_data":true,"client_id":"bench","streams":{"include_defaults":true,"subscriptions":[]}}`))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Token "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Transport{DisableCompression: true}).RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("the service answers %s", resp.Status)
	}
	return &client{body: resp.Body, r: bufio.NewReaderSize(resp.Body, 64<<10)}, nil
}

func (c *client) close() { c.body.Close() }

// complete reads until a checkpoint is complete with which there are so many ops
// since the call before.
func (c *client) complete(ops int) (time.Time, error) {
	var line []byte
	for {
		line = line[:0]
		for {
			part, err := c.r.ReadSlice('\n')
			line = append(line, part...)
			if err == nil {
				break
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				return time.Time{}, err
			}
		}
		switch {
		case bytes.HasPrefix(line, []byte(`{"data"`)):
			c.ops += bytes.Count(line, []byte(`"op_id":"`))
		case bytes.HasPrefix(line, []byte(`{"checkpoint_complete"`)) && c.ops >= ops:
			c.ops = 0
			return time.Now(), nil
		}
	}
}
