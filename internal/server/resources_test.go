package server

import (
	"os"
	"testing"
	"testing/fstest"
)

// The least limit counts, in whichever version of control groups it is, and of
// whichever group above the process.
func TestMemory(t *testing.T) {
	const meminfo = "MemTotal:        8000000 kB\nMemFree:         4000000 kB\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  uint64
	}{
		"machine": {map[string]string{"proc/meminfo": meminfo}, 8000000 << 10},
		"container, v2": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n",
		}, 512 << 20},
		"container without limit, v2": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n",
		}, 8000000 << 10},
		"slice above the process, v2": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/system.slice/a.service\n",
			"sys/fs/cgroup/system.slice/a.service/memory.max": "max\n", "sys/fs/cgroup/system.slice/memory.max": "1073741824\n",
		}, 1 << 30},
		"v1": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "8:pids:/a\n4:cpu,memory:/a/b\n0::/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":     "9223372036854771712\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes":   "2147483648\n",
			"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
		}, 2 << 30},
		"nonsense": {map[string]string{
			"proc/meminfo": "MemTotal: much kB\n" + meminfo, "proc/self/cgroup": "memory\n::\n", "sys/fs/cgroup/memory.max": "-1",
		}, 8000000 << 10},
	} {
		root := fstest.MapFS{}
		for file, text := range c.files {
			root[file] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := memory(root); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// Streams, other clients, storage and the rest fit within the descriptors, and
// streams within the memory.
func TestStreamsThatFit(t *testing.T) {
	for _, c := range []struct {
		files, memory uint64
		want          int
	}{
		{1024, 8 << 30, 1024 - 256 - otherFiles - spareSockets},
		{20_000, 8 << 30, 20_000 - 1000 - otherFiles - spareSockets},
		{1 << 20, 1 << 30, 8192},
		{1 << 20, 512 << 20, 4096},
		{1<<64 - 1, 1 << 62, 1<<31 - 1 - 1000 - otherFiles - spareSockets},
		{100, 1 << 20, minStreams},
	} {
		r := resources{files: c.files, memory: c.memory}
		if got := r.streams(); got != c.want {
			t.Errorf("%d files and %d bytes: %d streams, want %d", c.files, c.memory, got, c.want)
		}
		if r.sockets() < r.streams() {
			t.Errorf("%d files: %d sockets for %d streams", c.files, r.sockets(), r.streams())
		}
	}
}

// This machine has something.
func TestAvailable(t *testing.T) {
	if r := available(os.DirFS("/")); r.files < 64 || r.memory < 64<<20 || r.memory > 1<<50 {
		t.Errorf("found %d files and %d bytes of memory", r.files, r.memory)
	}
}
