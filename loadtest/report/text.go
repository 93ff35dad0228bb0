// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Text writes the report for a terminal.
func (r *Report) Text(to io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %.0f s after a warm-up of %.0f s, at %s (%s)\n", r.Setting.Loop(), r.Seconds, r.Setting.WarmUp, r.Setting.URL, r.Setting.API)
	if r.Early {
		b.WriteString("ended before its time\n")
	}
	fmt.Fprintf(&b, "%d CPUs, load average %.1f to %.1f, %s, %s\n\n", r.Machine.CPUs, r.Machine.Load, r.Machine.LoadThen, r.Machine.Go, r.Machine.Version)
	fmt.Fprintf(&b, "offered   %s (%s/s), answered %s (%s/s), lost %s\n", Count(float64(r.Offered)), Count(r.OfferedRate), Count(float64(r.Answered)),
		Count(r.Rate), Count(float64(r.Lost)))
	r.verdictText(&b)
	b.WriteByte('\n')
	r.latencyText(&b)
	r.endpointText(&b)
	r.processText(&b)
	for _, f := range r.Faults {
		fmt.Fprintf(&b, "fault     %s: %s\n", f.span(), f.Words)
	}
	if r.Ledger != nil {
		fmt.Fprintf(&b, "ledger    %s\n", r.Ledger.Words())
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "note      %s\n", note)
	}
	_, err := io.WriteString(to, b.String())
	return err
}

func (r *Report) verdictText(b *strings.Builder) {
	for i, status := range byCount(r.Verdicts) {
		word := "verdicts"
		if i > 0 {
			word = ""
		}
		fmt.Fprintf(b, "%-9s %s %s (%s)\n", word, Count(float64(r.Verdicts[status])), status, Share(r.Verdicts[status], r.Offered))
	}
	for i, reason := range byCount(r.Reasons) {
		if i == 10 {
			fmt.Fprintf(b, "          and %d reasons more\n", len(r.Reasons)-i)
			break
		}
		fmt.Fprintf(b, "          %s %s\n", Count(float64(r.Reasons[reason])), reason)
	}
}

func (r *Report) latencyText(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(name string, l *Latency) {
		if l != nil {
			_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", name, Millis(l.P50), Millis(l.P90), Millis(l.P99), Millis(l.P999), Millis(l.Max), Millis(l.Mean))
		}
	}
	_, _ = fmt.Fprint(t, "\tp50\tp90\tp99\tp99.9\tmax\tmean\t\n")
	line("latency, from when it was due", &r.Latency)
	line("of it outside attempts", r.Own)
	line("of it before this program sent", r.Late)
	_ = t.Flush() // into memory
	b.WriteByte('\n')
}

func (r *Report) endpointText(b *strings.Builder) {
	for i, e := range r.Endpoints {
		word := ""
		if i == 0 {
			word = "endpoints"
		}
		fmt.Fprintf(b, "%-9s %s: %s attempts (%s), %s accepted\n", word, e.Address, Count(float64(e.Attempts)), Share(e.Attempts, r.attempts()), Count(float64(e.Accepted)))
	}
}

func (r *Report) attempts() (n int) {
	for _, e := range r.Endpoints {
		n += e.Attempts
	}
	return n
}

func (r *Report) processText(b *strings.Builder) {
	for i, p := range r.Processes {
		word := ""
		if i == 0 {
			word = "CPU"
		}
		fmt.Fprintf(b, "%-9s %s: %.2f s, %.2f s per 100,000 notifications, at most %.0f MiB\n", word, p.Name, p.CPU, p.PerHundredThousand, p.RSS)
	}
}

// span says when a fault was in force.
func (f Fault) span() string {
	if f.Until == 0 {
		return fmt.Sprintf("from %g s", f.From)
	}
	return fmt.Sprintf("%g–%g s", f.From, f.Until)
}
