// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Panel shows the progress of a running test. On a terminal it redraws a few lines in place,
// elsewhere it writes a line every few seconds.
type Panel struct {
	Output io.Writer
	// Terminal says that Output is a terminal.
	Terminal   bool
	linesDrawn int
}

// Progress is the state that a Panel shows. Offered and Answered are notifications per second.
type Progress struct {
	Elapsed, WarmUp, Total time.Duration
	Offered, Answered      float64
	Latency                Latency // of the most recent interval
	InFlight               int
	Verdicts               map[string]int
	Healthy                int
	Unhealthy              map[string]string
}

// Interval returns how often to call Show.
func (p *Panel) Interval() time.Duration {
	if p.Terminal {
		return 500 * time.Millisecond
	}
	return 3 * time.Second
}

// Show displays v.
func (p *Panel) Show(v Progress) {
	if !p.Terminal {
		_, _ = fmt.Fprintf(p.Output, "bench: %s\n", strings.Join(v.lines(), "; "))
		return
	}
	p.Clear()
	lines := append([]string{v.bar()}, v.lines()...)
	for _, line := range lines {
		_, _ = fmt.Fprintf(p.Output, "%.100s\x1b[K\n", line)
	}
	p.linesDrawn = len(lines)
}

// Clear erases the lines drawn on a terminal.
func (p *Panel) Clear() {
	if p.linesDrawn > 0 {
		_, _ = fmt.Fprintf(p.Output, "\x1b[%dA\x1b[J", p.linesDrawn)
		p.linesDrawn = 0
	}
}

const barWidth = 40

func (v Progress) bar() string {
	full := int(barWidth * min(v.Elapsed.Seconds()/max(v.Total.Seconds(), 1e-9), 1))
	return fmt.Sprintf("[%s%s] %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), v.phase())
}

func (v Progress) phase() string {
	switch {
	case v.Elapsed < v.WarmUp:
		return "warming up"
	case v.Elapsed > v.Total:
		return "draining"
	default:
		return "measuring"
	}
}

func (v Progress) lines() []string {
	lines := []string{
		fmt.Sprintf("%.0f of %.0f s, %s/s offered, %s/s answered, %s in flight", v.Elapsed.Seconds(), v.Total.Seconds(), FormatCount(v.Offered), FormatCount(v.Answered),
			FormatCount(float64(v.InFlight))),
		fmt.Sprintf("p50 %s, p99 %s, p99.9 %s", FormatMillis(v.Latency.P50), FormatMillis(v.Latency.P99), FormatMillis(v.Latency.P999)),
	}
	var verdicts []string
	for _, status := range keysByCount(v.Verdicts) {
		verdicts = append(verdicts, FormatCount(float64(v.Verdicts[status]))+" "+status)
	}
	if verdicts != nil {
		lines = append(lines, strings.Join(verdicts, ", "))
	}
	if v.Healthy > 0 || len(v.Unhealthy) > 0 {
		lines = append(lines, v.endpoints())
	}
	return lines
}

func (v Progress) endpoints() string {
	text := fmt.Sprintf("%d healthy endpoints", v.Healthy)
	for _, address := range slices.Sorted(maps.Keys(v.Unhealthy)) {
		text += fmt.Sprintf(", %s %s", address, v.Unhealthy[address])
	}
	return text
}
