package demo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopTimeout is how long a process may take to end after SIGTERM: the service
// promises 10 s.
const stopTimeout = 12 * time.Second

// A Program is what to run as a child process.
type Program struct {
	Name  string // for messages and its log file
	Path  string
	Args  []string
	Env   []string // added to ours
	Dir   string   // working directory; empty: ours
	Log   string   // file that its standard error, and output if not piped, is added to
	Piped bool     // keep standard input and output for Stdin and Stdout
}

// Process is a child process in a group of its own, so that an interrupt typed at
// the terminal reaches us alone, and we stop our children in order. Should we be
// killed, a watchdog stops it.
type Process struct {
	Stdin  io.WriteCloser // nil unless piped
	Stdout io.ReadCloser  // nil unless piped

	program Program
	cmd     *exec.Cmd
	done    chan struct{} // closed once the process has ended
	err     error         // how it ended; read after done
	guard   io.WriteCloser
}

// Start runs a program. Stop or Kill must follow.
func Start(p Program) (*Process, error) {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer log.Close()
	r := &Process{program: p, done: make(chan struct{})}
	r.cmd = exec.Command(p.Path, p.Args...)
	r.cmd.Env, r.cmd.Dir, r.cmd.Stderr = append(os.Environ(), p.Env...), p.Dir, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var childOut *os.File
	if p.Piped {
		if r.Stdin, err = r.cmd.StdinPipe(); err != nil {
			return nil, fmt.Errorf("start %s: %w", p.Name, err)
		}
		// Not StdoutPipe: Wait would close it while its reader still reads.
		in, out, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", p.Name, err)
		}
		r.Stdout, childOut, r.cmd.Stdout = in, out, out
	} else {
		r.cmd.Stdout = log
	}
	err = r.cmd.Start()
	if childOut != nil {
		childOut.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	go func() {
		r.err = r.cmd.Wait()
		close(r.done)
	}()
	if r.guard, err = guard(r.cmd.Process.Pid); err != nil {
		r.Kill()
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	return r, nil
}

// PID returns the process' id, which is its group's too.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode waits for the end and returns the exit code, or -1 after a signal.
func (p *Process) ExitCode() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Stop asks the process to end and waits. It is an error if the process has to be
// killed, or ends with anything but success.
func (p *Process) Stop() error {
	return p.end(syscall.SIGTERM)
}

// Interrupt is Stop with the signal of Ctrl-C.
func (p *Process) Interrupt() error {
	return p.end(syscall.SIGINT)
}

func (p *Process) end(signal syscall.Signal) error {
	defer p.release()
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.program.Name, err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.killGroup()
		<-p.done
		return fmt.Errorf("stop %s: still running after %v, killed%s", p.program.Name, stopTimeout, p.logTail())
	}
	p.killGroup() // whatever it may have left behind
	if p.err != nil {
		return fmt.Errorf("%s ended: %w%s", p.program.Name, p.err, p.logTail())
	}
	return nil
}

// Kill ends the process at once, as a crash would.
func (p *Process) Kill() {
	p.killGroup()
	<-p.done
	p.release()
}

func (p *Process) killGroup() {
	// An error means that the group is gone already.
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
}

func (p *Process) release() {
	if p.guard != nil {
		// If the watchdog is gone there is nothing to tell it.
		io.WriteString(p.guard, "done\n")
		p.guard.Close()
	}
}

// logTail returns the end of the process' log, as the continuation of a message.
func (p *Process) logTail() string {
	b, err := os.ReadFile(p.program.Log)
	if err != nil || len(b) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return fmt.Sprintf("\nlast lines of %s:\n%s", filepath.Base(p.program.Log), strings.Join(lines[max(0, len(lines)-10):], "\n"))
}

// guardScript waits on a pipe that the system closes when we are gone, however
// that came. A line on it says that we took care ourselves.
const guardScript = `read -r line && exit 0
kill -s TERM -- "-$1" 2>/dev/null || exit 0
n=0
while kill -s 0 -- "-$1" 2>/dev/null && [ "$n" -lt 120 ]; do sleep 0.1; n=$((n+1)); done
kill -s KILL -- "-$1" 2>/dev/null
`

// guard starts a watchdog over a process group; writing a line to it ends it.
func guard(group int) (io.WriteCloser, error) {
	cmd := exec.Command("/bin/sh", "-c", guardScript, "guard", strconv.Itoa(group))
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &guardPipe{pipe, cmd}, nil
}

// guardPipe is the watchdog's standard input; closing it waits for its end.
type guardPipe struct {
	io.WriteCloser
	cmd *exec.Cmd
}

func (g *guardPipe) Close() error {
	return errors.Join(g.WriteCloser.Close(), g.cmd.Wait())
}

// waitQuit waits for a process that was told to end through its input.
func (p *Process) waitQuit() error {
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
	}
	return p.end(syscall.SIGTERM)
}
