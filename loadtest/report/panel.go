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

// Panel shows how a test stands while it runs: a few lines that are drawn anew in place, or a line now and then.
type Panel struct {
	To io.Writer
	// Redraw says that To is a terminal.
	Redraw bool
	drawn  int // lines
}

// View is what it shows. Rates are notifications a second.
type View struct {
	Elapsed, WarmUp, Total time.Duration
	Offered, Answered      float64
	Latency                Latency // lately
	InFlight               int
	Verdicts               map[string]int
	Live                   int
	Troubled               map[string]string
}

// Every is how often to show something.
func (p *Panel) Every() time.Duration {
	if p.Redraw {
		return 500 * time.Millisecond
	}
	return 3 * time.Second
}

// Show shows the view.
func (p *Panel) Show(v View) {
	if !p.Redraw {
		_, _ = fmt.Fprintf(p.To, "bench: %s\n", strings.Join(v.lines(), "; "))
		return
	}
	p.Clear()
	lines := append([]string{v.bar()}, v.lines()...)
	for _, line := range lines {
		_, _ = fmt.Fprintf(p.To, "%.100s\x1b[K\n", line)
	}
	p.drawn = len(lines)
}

// Clear takes it away.
func (p *Panel) Clear() {
	if p.drawn > 0 {
		_, _ = fmt.Fprintf(p.To, "\x1b[%dA\x1b[J", p.drawn)
		p.drawn = 0
	}
}

const barWidth = 40

func (v View) bar() string {
	full := int(barWidth * min(v.Elapsed.Seconds()/max(v.Total.Seconds(), 1e-9), 1))
	return fmt.Sprintf("[%s%s] %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), v.phase())
}

func (v View) phase() string {
	switch {
	case v.Elapsed < v.WarmUp:
		return "warming up"
	case v.Elapsed > v.Total:
		return "waiting for what is in flight"
	default:
		return "measuring"
	}
}

func (v View) lines() []string {
	lines := []string{
		fmt.Sprintf("%.0f of %.0f s, %s/s offered, %s/s answered, %s in flight", v.Elapsed.Seconds(), v.Total.Seconds(), Count(v.Offered), Count(v.Answered),
			Count(float64(v.InFlight))),
		fmt.Sprintf("p50 %s, p99 %s, p99.9 %s", Millis(v.Latency.P50), Millis(v.Latency.P99), Millis(v.Latency.P999)),
	}
	var verdicts []string
	for _, status := range byCount(v.Verdicts) {
		verdicts = append(verdicts, Count(float64(v.Verdicts[status]))+" "+status)
	}
	if verdicts != nil {
		lines = append(lines, strings.Join(verdicts, ", "))
	}
	if v.Live > 0 || len(v.Troubled) > 0 {
		lines = append(lines, v.endpoints())
	}
	return lines
}

func (v View) endpoints() string {
	text := fmt.Sprintf("%d endpoints well", v.Live)
	for _, address := range slices.Sorted(maps.Keys(v.Troubled)) {
		text += fmt.Sprintf(", %s %s", address, v.Troubled[address])
	}
	return text
}
