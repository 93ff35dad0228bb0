// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/term"

	"github.com/sluice-push/sluice/client"
)

// broadcastView shows a broadcast as text, within the width of a terminal.
type broadcastView struct{ statusView }

func newBroadcastView(w io.Writer) broadcastView {
	if file, ok := w.(output); ok {
		w = file.Writer
	}
	v := broadcastView{}
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		v.width, v.height, _ = term.GetSize(int(file.Fd())) // 0 if it is unknown
	}
	return v
}

func (v broadcastView) isTerminal() bool { return v.width > 0 }

// render returns the lines of a broadcast.
func (v broadcastView) render(b *client.Broadcast) (lines []string) {
	add := func(name, format string, args ...any) {
		lines = append(lines, v.line("%-12s %s", name, fmt.Sprintf(format, args...)))
	}
	add("broadcast", "%s  %s", b.ID, oneLine(b.Name))
	add("state", "%s", describeState(b))
	if b.Problem != "" {
		add("problem", "%s", oneLine(b.Problem))
	}
	if a := b.Validation; a != nil {
		text := fmt.Sprintf("%s lines: %s valid, %s invalid, %s duplicates", group(a.Lines), group(a.Valid), group(a.Invalid), group(a.Duplicates))
		if a.Devices > 0 {
			text += fmt.Sprintf("; about %s devices", group(a.Devices))
		}
		add("audience", "%s", text)
	}
	if b.InRecall && b.RecallCounts != nil {
		lines = append(lines, v.counts("recall", b.RecallCounts)...)
	}
	if b.Counts != nil && !b.StartedAt.IsZero() {
		lines = append(lines, v.counts("message", b.Counts)...)
	}
	commands := make([]string, len(b.Commands))
	for i, c := range b.Commands {
		commands[i] = string(c)
	}
	if len(commands) > 0 {
		add("commands", "%s", strings.Join(commands, ", "))
	}
	return lines
}

// describeState returns the state, why it is paused, the rate and the time that is left.
func describeState(b *client.Broadcast) string {
	text := string(b.State)
	switch {
	case b.State == client.BroadcastPaused && b.PauseReason != "" && b.PauseReason != "command":
		text += " by pause_if: " + oneLine(b.PauseReason)
	case !b.StartedAt.IsZero() && !b.IsFinished() && isFinal(b.State):
		text += ", attempts in flight end"
	}
	if b.PerMinute > 0 {
		text += fmt.Sprintf(", %s a minute", group(b.PerMinute))
	}
	if !b.ETA.IsZero() {
		text += fmt.Sprintf(", done in about %s", age(max(time.Until(b.ETA), 0)))
	}
	return text
}

func isFinal(s client.BroadcastState) bool {
	return s == client.BroadcastCompleted || s == client.BroadcastCancelled || s == client.BroadcastRecalled || s == client.BroadcastExpired
}

// counts returns the lines of the counts of the message or of the recall message.
func (v broadcastView) counts(name string, c *client.BroadcastCounts) []string {
	lines := []string{
		v.line("%-12s [%s] %s of %s ended", name, bar(int64(c.Ended()), int64(c.Total)), percent(c.Ended(), c.Total), group(c.Total)),
		v.line("  %-10s %12s", "pending", group(c.Pending)), v.line("  %-10s %12s", "queued", group(c.Queued)), v.line("  %-10s %12s", "accepted", group(c.Accepted)),
	}
	rows := failures(c)
	for _, n := range rows {
		text := fmt.Sprintf("%-28s %s", oneLine(n.Reason), n.Platform)
		if n.Variant != "" {
			text += "  " + oneLine(n.Variant)
		}
		lines = append(lines, strings.TrimRight(v.line("  %-12s %10s  %s", n.Status, group(n.Count), text), " "))
	}
	return lines
}

// summary returns a line with the progress.
func (v broadcastView) summary(b *client.Broadcast) string {
	text := fmt.Sprintf("%s  %s", time.Now().UTC().Format(time.TimeOnly), describeState(b))
	if c := b.Current(); c != nil {
		text += fmt.Sprintf(": %s ended, %s accepted of %s", percent(c.Ended(), c.Total), group(c.Accepted), group(c.Total))
	}
	return text
}

// redraw replaces the lines that were shown before, and returns the number of those that are shown now.
func (v broadcastView) redraw(out io.Writer, b *client.Broadcast, before int) int {
	lines := v.render(b)
	if rows := max(v.height-1, 1); len(lines) > rows {
		lines = lines[:rows]
	}
	var text strings.Builder
	if before > 0 && v.isTerminal() {
		fmt.Fprintf(&text, "\x1b[%dA\r\x1b[J", before)
	}
	for _, line := range lines {
		text.WriteString(line + "\n")
	}
	printf(out, "%s", text.String())
	return len(lines)
}

// bar returns a bar that shows part of whole.
func bar(part, whole int64) string {
	full := int(barWidth * min(part, whole) / max(whole, 1))
	return strings.Repeat("#", full) + strings.Repeat(".", barWidth-full)
}

// percent returns a share, rounded down so that 100 % means all.
func percent(part, whole int) string { return fmt.Sprintf("%d %%", 100*part/max(whole, 1)) }

// group formats a number with separators: 1,204.
func group(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// oneLine replaces control characters, which could move the cursor of a terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}
