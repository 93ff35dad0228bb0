// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Text writes the report as text for a terminal.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %.0f s after a warm-up of %.0f s, at %s (%s)\n", r.Settings.LoadModel(), r.Seconds, r.Settings.WarmUp, r.Settings.URL, r.Settings.API)
	if r.Interrupted {
		b.WriteString("interrupted\n")
	}
	fmt.Fprintf(&b, "%d CPUs, load average %.1f to %.1f, %s, %s\n\n", r.Machine.CPUs, r.Machine.LoadAtStart, r.Machine.LoadAtEnd, r.Machine.Go, r.Machine.Version)
	fmt.Fprintf(&b, "offered   %s (%s/s), answered %s (%s/s), lost %s\n", FormatCount(float64(r.Offered)), FormatCount(r.OfferedRate), FormatCount(float64(r.Answered)),
		FormatCount(r.Rate), FormatCount(float64(r.Lost)))
	r.writeVerdicts(&b)
	b.WriteByte('\n')
	r.writeLatencies(&b)
	r.writeEndpoints(&b)
	r.writeProcesses(&b)
	for _, f := range r.Faults {
		fmt.Fprintf(&b, "fault     %s: %s\n", f.timeRange(), f.Description)
	}
	if r.Ledger != nil {
		fmt.Fprintf(&b, "ledger    %s\n", r.Ledger.Description())
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "note      %s\n", note)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) writeVerdicts(b *strings.Builder) {
	for i, status := range keysByCount(r.Verdicts) {
		heading := "verdicts"
		if i > 0 {
			heading = ""
		}
		fmt.Fprintf(b, "%-9s %s %s (%s)\n", heading, FormatCount(float64(r.Verdicts[status])), status, FormatPercent(r.Verdicts[status], r.Offered))
	}
	for i, reason := range keysByCount(r.Reasons) {
		if i == 10 {
			fmt.Fprintf(b, "          and %d more reasons\n", len(r.Reasons)-i)
			break
		}
		fmt.Fprintf(b, "          %s %s\n", FormatCount(float64(r.Reasons[reason])), reason)
	}
}

func (r *Report) writeLatencies(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(name string, l *Latency) {
		if l != nil {
			_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", name, FormatMillis(l.P50), FormatMillis(l.P90), FormatMillis(l.P99), FormatMillis(l.P999), FormatMillis(l.Max), FormatMillis(l.Mean))
		}
	}
	_, _ = fmt.Fprint(t, "\tp50\tp90\tp99\tp99.9\tmax\tmean\t\n")
	line("latency from due time", &r.Latency)
	line("of which overhead", r.Overhead)
	line("of which send delay", r.SendDelay)
	_ = t.Flush() // writes to memory
	b.WriteByte('\n')
}

func (r *Report) writeEndpoints(b *strings.Builder) {
	for i, e := range r.Endpoints {
		heading := ""
		if i == 0 {
			heading = "endpoints"
		}
		fmt.Fprintf(b, "%-9s %s: %s attempts (%s), %s accepted\n", heading, e.Address, FormatCount(float64(e.Attempts)), FormatPercent(e.Attempts, r.attempts()), FormatCount(float64(e.Accepted)))
	}
}

func (r *Report) attempts() (n int) {
	for _, e := range r.Endpoints {
		n += e.Attempts
	}
	return n
}

func (r *Report) writeProcesses(b *strings.Builder) {
	for i, p := range r.Processes {
		heading := ""
		if i == 0 {
			heading = "CPU"
		}
		fmt.Fprintf(b, "%-9s %s: %.2f s, %.2f s per 100,000 notifications, peak memory %.0f MiB\n", heading, p.Name, p.CPU, p.CPUPer100k, p.RSS)
	}
}

// timeRange formats the interval in which the fault was active.
func (f Fault) timeRange() string {
	if f.Until == 0 {
		return fmt.Sprintf("from %g s", f.From)
	}
	return fmt.Sprintf("%g–%g s", f.From, f.Until)
}
