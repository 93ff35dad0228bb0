// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

type topCmd struct {
	statusFlags
	Interval time.Duration `default:"1s" help:"Time between two refreshes."`
}

// Help returns the description and examples.
func (topCmd) Help() string {
	return `Example:

    gateway top

Shows what gateway status prints, refreshed every second, until q or Ctrl-C. The keys j and k, or the arrows, scroll. If standard output is not a terminal, prints it once, with the exit code of gateway status.`
}

// The sequences that a terminal understands.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	toHome      = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// Run shows the status until the user or a signal ends it.
func (t topCmd) Run(p process) error {
	s := statusCmd{statusFlags: t.statusFlags}
	out, ok := p.stdout.(output)
	if !ok || !isTerminal(out.Writer) {
		return s.Run(p)
	}
	if _, _, err := s.connect(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(p)
	defer cancel()
	keys := make(chan byte, 16)
	restore := readKeys(ctx, cancel, keys)
	defer restore()
	printf(out, enterScreen)
	defer printf(out, leaveScreen)
	resized, stop := watchSize()
	defer stop()
	tick := time.NewTicker(max(t.Interval, 100*time.Millisecond))
	defer tick.Stop()
	offset, frame := 0, t.frame(ctx, s, out)
	for ctx.Err() == nil {
		offset = draw(out, s.view(out), frame, offset)
		select {
		case <-ctx.Done():
		case <-resized:
			frame = t.frame(ctx, s, out) // its lines have the width of the terminal
		case key := <-keys:
			offset += map[byte]int{'j': 1, 'k': -1}[key]
		case <-tick.C:
			frame = t.frame(ctx, s, out)
		}
	}
	return nil
}

// frame returns the lines to show: the status, or why there is none.
func (t topCmd) frame(ctx context.Context, s statusCmd, out io.Writer) []string {
	_, status, err := s.fetch(ctx)
	v := s.view(out)
	if err != nil {
		return []string{v.paint(bold, v.clip("gateway  "+s.URL)), v.paint(red, v.clip(strings.ReplaceAll(err.Error(), "\n", " ")))}
	}
	return v.render(status)
}

// draw shows the lines from offset that fit, and returns the offset that it has used.
func draw(out io.Writer, v statusView, lines []string, offset int) int {
	rows := max(v.height-1, 1)
	offset = max(min(offset, len(lines)-rows), 0)
	shown := lines[offset:min(len(lines), offset+rows)]
	foot := v.line("%s  q quits", v.now.Format(time.TimeOnly))
	if len(lines) > rows {
		foot = v.line("%s  q quits, j and k scroll: lines %d to %d of %d", v.now.Format(time.TimeOnly), offset+1, offset+len(shown), len(lines))
	}
	var b strings.Builder
	b.WriteString(toHome)
	for _, line := range shown {
		b.WriteString(line + clearLine + "\r\n")
	}
	b.WriteString(clearBelow + fmt.Sprintf("\x1b[%d;1H", v.height) + foot + clearLine)
	printf(out, "%s", b.String())
	return offset
}

// readKeys sends the keys that the user presses, and calls cancel for q and Ctrl-C. The returned
// function restores the terminal. Without a terminal on standard input there are no keys.
func readKeys(ctx context.Context, cancel func(), keys chan<- byte) (restore func()) {
	fd := int(os.Stdin.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return func() {}
	}
	go func() { // ends with the process: a read of a terminal cannot be canceled
		var buffer [16]byte
		for ctx.Err() == nil {
			n, err := os.Stdin.Read(buffer[:])
			if err != nil {
				return
			}
			pressed := strings.NewReplacer("\x1b[A", "k", "\x1b[B", "j").Replace(string(buffer[:n]))
			for _, key := range []byte(pressed) {
				if key == 'q' || key == 3 { // Ctrl-C, which is no signal in raw mode
					cancel()
					return
				}
				select {
				case keys <- key:
				default:
				}
			}
		}
	}()
	return func() { _ = term.Restore(fd, before) }
}
