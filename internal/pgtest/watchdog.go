//go:build unix

package pgtest

import (
	"io"
	"os/exec"
	"strconv"
	"syscall"
)

// watchdog is a small shell that ends the server if we end without having done
// so: it waits on a pipe that the system closes when we are gone, however that
// came. (A parent-death signal would do on Linux only, and follows the thread
// that forked, not the process.)
type watchdog struct {
	pipe io.WriteCloser
	cmd  *exec.Cmd
}

// watchdogScript reads a line: if one comes, we took care ourselves. The first
// argument is the server's process, the others are directories to remove.
const watchdogScript = `read -r line && exit 0
pid=$1; shift
kill -QUIT "$pid" 2>/dev/null
n=0
while kill -0 "$pid" 2>/dev/null && [ "$n" -lt 100 ]; do sleep 0.1; n=$((n+1)); done
[ "$#" -eq 0 ] || rm -rf -- "$@"
`

// guard starts a watchdog over the process pid.
func guard(pid int, remove ...string) (*watchdog, error) {
	args := append([]string{"-c", watchdogScript, "watchdog", strconv.Itoa(pid)}, remove...)
	cmd := exec.Command("/bin/sh", args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &watchdog{pipe: pipe, cmd: cmd}, nil
}

// release ends the watchdog once the process that it watches has ended.
func (w *watchdog) release() {
	if w == nil {
		return
	}
	io.WriteString(w.pipe, "done\n") // if it is gone there is nothing to tell
	w.pipe.Close()
	w.cmd.Wait()
}
