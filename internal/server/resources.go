package server

import (
	"bufio"
	"bytes"
	"io/fs"
	"math"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
)

// resources is what the process may use. Only the defaults of settings depend on it.
type resources struct {
	files  uint64 // descriptors
	memory uint64 // bytes
}

const (
	// A quarter of the descriptors, within these bounds, is for the store's tables.
	minStorageFiles = 64
	maxStorageFiles = 1000
	// otherFiles are kept for the source, key sets, logs and the store's log.
	otherFiles = 128
	// spareSockets are for clients that do not stream: probes, write checkpoints,
	// those that are about to be refused.
	spareSockets = 256
	// streamMemory is what a stream is reckoned to take at most of the half of the
	// memory that streams may have: a third of it while it is idle.
	streamMemory = 64 << 10
	// minStreams are allowed however little there is.
	minStreams = 64
)

// available finds out what the process may use. Go has raised the limit of
// descriptors to what the system allows.
func available(root fs.FS) resources {
	r := resources{files: 1024, memory: memory(root)}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil {
		r.files = uint64(files.Cur)
	}
	return r
}

// storageFiles is how many tables the store may keep open.
func (r resources) storageFiles() int {
	return int(max(minStorageFiles, min(r.files/4, maxStorageFiles)))
}

// sockets is how many clients may be connected, whatever for.
func (r resources) sockets() int {
	left := int64(min(r.files, math.MaxInt32)) - int64(r.storageFiles()) - otherFiles
	return int(max(left, 2*minStreams))
}

// streams is how many streams may be open unless the configuration says so.
func (r resources) streams() int {
	byFiles := r.sockets() - spareSockets
	byMemory := int(min(r.memory/2/streamMemory, math.MaxInt32))
	return max(minStreams, min(byFiles, byMemory))
}

// memory returns the least of the machine's memory, the limits of the control
// groups that the process is in, and GOMEMLIMIT, as far as they can be found out.
func memory(root fs.FS) uint64 {
	limit := uint64(math.MaxInt64)
	if n := debug.SetMemoryLimit(-1); n < math.MaxInt64 {
		limit = uint64(n)
	}
	if b, err := fs.ReadFile(root, "proc/meminfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" && f[2] == "kB" {
				if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
					limit = min(limit, n<<10)
				}
			}
		}
	}
	for _, file := range groupFiles(root) {
		b, err := fs.ReadFile(root, file)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64); err == nil { // not "max"
			limit = min(limit, n)
		}
	}
	return limit
}

// groupFiles returns where limits may be: those of the process's group and of all
// above it, in both versions of control groups.
func groupFiles(root fs.FS) []string {
	list := []string{"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"}
	b, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return list
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		f := strings.SplitN(lines.Text(), ":", 3) // number, controllers, path
		if len(f) != 3 {
			continue
		}
		var at, name string
		switch {
		case f[1] == "":
			at, name = "sys/fs/cgroup", "memory.max"
		case strings.Contains(","+f[1]+",", ",memory,"):
			at, name = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for group := path.Clean("/" + f[2]); group != "/"; group = path.Dir(group) {
			list = append(list, path.Join(at, group, name))
		}
	}
	return list
}
