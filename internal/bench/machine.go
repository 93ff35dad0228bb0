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

// describeMachine describes this machine. What only Linux tells is left out elsewhere.
func describeMachine(version string) report.Machine {
	return report.Machine{
		System: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Model: cpuModel(), Go: runtime.Version(), Version: version, Load: loadAverage(),
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
	word, _, _ := strings.Cut(string(text), " ")
	load, _ := strconv.ParseFloat(word, 64)
	return load
}

// processes says what each has used since the measured time began, for so many notifications.
func (t *loadTest) processes(answered int) (found []report.Process) {
	for _, p := range t.Processes {
		before, known := t.cpuAtStart[p.PID]
		now := cpuTime(p.PID)
		if !known || now == 0 {
			continue
		}
		used := (now - before).Seconds()
		found = append(found, report.Process{
			Name: p.Name, PID: p.PID, CPU: used, PerHundredThousand: used / float64(max(answered, 1)) * 100_000, RSS: maxMemory(p.PID),
		})
	}
	return found
}

// clockTick is the unit in which /proc counts processor time: USER_HZ is 100 on every Linux.
const clockTick = 10 * time.Millisecond

// cpuTime is what a process has used, user and system; 0 where nobody can tell.
func cpuTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in brackets, may hold anything. After it the 12th and 13th fields are utime and stime (proc_pid_stat(5)).
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(string(fields[11]), 10, 64)
	system, _ := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * clockTick
}

// maxMemory is the most resident memory that a process has had, in MiB.
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
