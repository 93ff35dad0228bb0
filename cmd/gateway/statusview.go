// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/quota"
)

// statusView shows a status as text.
type statusView struct {
	url           string
	now           time.Time
	width, height int // of the terminal; 0 without one
	color         bool
}

// The colors of states.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	bold   = "\x1b[1m"
	reset  = "\x1b[0m"
)

// paint returns text in a color.
func (v statusView) paint(color, text string) string {
	if !v.color {
		return text
	}
	return color + text + reset
}

// clip shortens a text without colors to the width of the terminal.
func (v statusView) clip(text string) string {
	if v.width == 0 || utf8.RuneCountInString(text) <= v.width {
		return text
	}
	return string([]rune(text)[:max(v.width-1, 0)]) + "…"
}

// line returns a formatted line of at most the width.
func (v statusView) line(format string, args ...any) string {
	return v.clip(fmt.Sprintf(format, args...))
}

// render returns the lines of a status. The problems come first.
func (v statusView) render(s *gateway.Status) (lines []string) {
	head := "gateway  " + v.url
	if s.Zone != "" {
		head += "  zone " + s.Zone
	}
	lines = append(lines, v.paint(bold, v.clip(head)))
	problems := degradations(s)
	for _, problem := range problems {
		lines = append(lines, v.paint(red, v.clip("DEGRADED "+problem)))
	}
	lines = append(lines,
		v.line("load     in flight %d of %d, waiting %d, shed %d", s.Concurrency.InFlight, s.Concurrency.Limit, s.Concurrency.Waiting, s.Concurrency.Shed),
		v.line("clients  %d connections of %d", s.Connections.Open, s.Connections.Limit))
	lines = append(lines, v.storage(s)...)
	for i := range s.Services {
		lines = append(lines, v.service(&s.Services[i])...)
	}
	for _, w := range s.Webhooks {
		text := v.line("webhook  %s/%s  delivered %d, failures %d", w.App, w.Name, w.Delivered, w.Failures)
		if w.Failures > 0 {
			text = v.paint(yellow, v.clip(text+": "+w.Reason))
		}
		lines = append(lines, text)
	}
	return lines
}

// storage returns the lines of the queue, the history and the shares of quotas.
func (v statusView) storage(s *gateway.Status) (lines []string) {
	if q := s.Queue; q != nil {
		total, parts := 0, []string(nil)
		for _, d := range q.Waiting {
			if d.Tasks > 0 {
				parts = append(parts, fmt.Sprintf("%s %s %d", d.App, d.Lane, d.Tasks))
			}
			total += d.Tasks
		}
		text := fmt.Sprintf("queue    waiting %d, %s of %s, scheduled %s", total, size(int64(q.Bytes)), size(q.MaxBytes), size(int64(q.LaterBytes)))
		if len(parts) > 0 {
			text += " (" + strings.Join(parts, ", ") + ")"
		}
		lines = append(lines, v.clip(text))
		if e := q.Encryption; e != nil {
			lines = append(lines, v.clip(encryptionText(e)))
		}
	}
	if h := s.History; h != nil && !h.CaughtUp {
		text := v.line("history  %d messages of the cluster not received yet", h.LagBatches)
		lines = append(lines, v.paint(yellow, text))
	}
	if l := s.QuotaLease; l != nil {
		text := v.line("cluster  %d gateways share the quotas", l.Members)
		if !l.Connected {
			text = v.paint(yellow, v.clip(text+"; not connected: "+l.Reason))
		}
		lines = append(lines, text)
	}
	return lines
}

// encryptionText says which key encrypts, which others the gateway has, and which ones the stored records
// need.
func encryptionText(e *gateway.EncryptionStatus) string {
	text := "keys     " + cmp.Or(e.Key, "none") + " encrypts"
	for _, key := range e.Keys {
		if key != e.Key {
			text += ", " + key + " decrypts"
		}
	}
	for i, needed := range e.Needed {
		if i == 0 {
			text += ", needed:"
		}
		text += fmt.Sprintf(" %s (%d messages)", needed.Key, needed.Messages)
	}
	return text
}

// size formats a number of bytes.
func size(n int64) string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	if unit == 0 || value == float64(int64(value)) {
		return fmt.Sprintf("%.0f %s", value, units[unit])
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}

// service returns the lines of a pool and its endpoints.
func (v statusView) service(s *gateway.ServiceStatus) []string {
	state, color := "ready", green
	switch p := &s.Pool; {
	case s.Outage != nil:
		state, color = "unavailable", red
	case p.Idle:
		state, color = "idle", ""
	case !p.Ready:
		state, color = "not ready", red
	case p.Panic:
		state, color = "panic mode", red
	}
	name := v.line("pool     %s  ", s.Pool.Name)
	lines := []string{"", v.paint(bold, name) + v.paint(color, (statusView{width: max(v.width-utf8.RuneCountInString(name), 0)}).clip(state))}
	lines = append(lines, v.line("         %s", strings.Join(s.Apps, ", ")))
	text := fmt.Sprintf("         in flight %d of %d, waiting %d, endpoints %d of %d%s", s.Pool.InFlight, s.AdaptiveLimit.Limit, s.Pool.Waiting+s.AdaptiveLimit.Waiting,
		len(s.Pool.Endpoints), s.Pool.Size, quotaText(&s.Quota))
	if s.RejectionRate > 0 {
		text += fmt.Sprintf(", rejecting %.0f %%", 100*s.RejectionRate)
	}
	lines = append(lines, v.clip(text))
	if s.Outage != nil {
		lines = append(lines, v.paint(red, v.line("         unavailable for %s, %d affected: %s", age(v.now.Sub(s.Outage.Since)), s.Outage.Affected, s.Outage.Cause)))
	}
	if len(s.Pool.Endpoints)+len(s.Pool.Spares) == 0 {
		return lines
	}
	lines = append(lines, v.line("  %-27s %-10s %5s %9s %8s %6s %6s", "ENDPOINT", "STATE", "CONNS", "IN FLIGHT", "LATENCY", "OK", "FAILED"))
	for _, e := range s.Pool.Endpoints {
		lines = append(lines, v.endpoint(&e, "")...)
	}
	for _, e := range s.Pool.Spares {
		if e.State != "closed" || e.DialError != "" || e.InFlight > 0 { // others wait for their use
			lines = append(lines, v.endpoint(&e, "spare")...)
		}
	}
	return lines
}

// quotaText describes a quota, or is empty if there is none.
func quotaText(q *quota.Status) string {
	text := ""
	if q.Limit > 0 {
		text = fmt.Sprintf(", quota %.0f/s of %.0f/s", q.Rate, q.Limit)
	}
	if q.ClosedFor > 0 {
		text += fmt.Sprintf(", closed for %s", age(time.Duration(q.ClosedFor*float64(time.Second))))
	}
	if waiting := q.Waiting.Critical + q.Waiting.Normal + q.Waiting.Bulk; waiting > 0 {
		text += fmt.Sprintf(", %d wait for it", waiting)
	}
	return text
}

// endpoint returns the row of an endpoint, and why it is not used.
func (v statusView) endpoint(e *pool.EndpointStatus, state string) []string {
	color, address := green, e.Address
	switch {
	case e.State == "open":
		state, color = "ejected", red
		if e.EjectedUntil != nil && e.EjectedUntil.After(v.now) {
			state += " " + age(e.EjectedUntil.Sub(v.now))
		}
	case e.State == "half-open":
		state, color = "probing", yellow
	case e.Connections == 0:
		state, color = cmp.Or(state, "connecting"), yellow
	default:
		state = cmp.Or(state, "ok")
	}
	if utf8.RuneCountInString(address) > 27 {
		address = string([]rune(address)[:26]) + "…"
	}
	latency := "-"
	if e.LatencyMS > 0 {
		latency = fmt.Sprintf("%.0f ms", e.LatencyMS)
		if e.LatencyMS < 10 {
			latency = fmt.Sprintf("%.1f ms", e.LatencyMS)
		}
	}
	row := v.line("  %-27s %-10s %5d %9d %8s %6d %6d", address, state, e.Connections, e.InFlight, latency, e.Successes, e.Failures)
	if cell := fmt.Sprintf("%-10s", state); v.color {
		row = strings.Replace(row, cell, color+cell+reset, 1)
	}
	lines := []string{row}
	if why := cmp.Or(e.Reason, e.DialError); why != "" {
		lines = append(lines, v.line("      %s", why))
	}
	return lines
}

// age formats a duration with the precision that people need.
func age(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}
