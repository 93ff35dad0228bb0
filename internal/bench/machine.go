// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/report"
)

// describeMachine describes this machine. The CPU model and the load are available on Linux only.
func describeMachine(version string) report.Machine {
	return report.Machine{
		System: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Model: cpuModel(), Go: runtime.Version(), Version: version, LoadAtStart: loadAverage(),
	}
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func loadAverage() float64 {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load
}

// processes returns the resource usage of each process since the start of the measurement. answered
// is the number of notifications answered in that time.
func (t *loadTest) processes(answered int) (processes []report.Process) {
	for _, p := range t.Processes {
		before, known := t.cpuAtStart[p.PID]
		now := cpuTime(p.PID)
		if !known || now == 0 {
			continue
		}
		used := (now - before).Seconds()
		processes = append(processes, report.Process{
			Name: p.Name, PID: p.PID, CPU: used, CPUPer100k: used / float64(max(answered, 1)) * 100_000, RSS: maxMemory(p.PID),
		})
	}
	return processes
}

// clockTick is the unit of CPU times in /proc. USER_HZ is 100 on every Linux.
const clockTick = 10 * time.Millisecond

// cpuTime returns the user and system CPU time of a process, or 0 if it is unknown.
func cpuTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may contain any character. After it, utime and stime are the 12th and
	// 13th fields (proc_pid_stat(5)).
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(string(fields[11]), 10, 64)
	system, _ := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * clockTick
}

// maxMemory returns the peak resident memory of a process in MiB, or 0 if it is unknown.
func maxMemory(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kib / 1024
		}
	}
	return 0
}
