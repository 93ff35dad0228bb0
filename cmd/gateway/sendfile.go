// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/sluice-push/sluice/push"
)

// fileSend sends the notifications of a file, one on each line, in calls that nobody waits for. A call that breaks off is
// followed by another, which begins where the answers stopped; the keys of the lines keep any from being sent twice.
type fileSend struct {
	process
	request  func(ctx context.Context, body io.Reader) (*http.Request, error)
	patience time.Duration // without an answer
	file     *os.File
	size     int64
	keys     keys
	window   *window
	progress *progress
}

// runFile sends the file and tells how it went.
func (s send) runFile(p process) error {
	file, err := os.Open(s.File)
	if err != nil {
		return wrong{fmt.Errorf("send: %w", err)}
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return wrong{fmt.Errorf("send: --file %s: must be a regular file, for a broken connection is resumed in it", s.File)}
	}
	f := &fileSend{
		process: p, patience: s.Timeout, file: file, size: info.Size(), keys: keys{info.Name(), s.As},
		window: newWindow(), progress: newProgress(p.stderr, info.Size()),
		request: func(ctx context.Context, body io.Reader) (*http.Request, error) { return s.batch(ctx, body) },
	}
	err = f.send()
	t := f.progress.end(f.window)
	switch {
	case p.Err() != nil:
		return errors.New("send: interrupted; the same command goes on where it stopped")
	case err != nil:
		return err
	case t.refused > 0:
		return errSaid
	}
	return nil
}

// send makes calls until every line is done, as long as they get somewhere.
func (f *fileSend) send() error {
	heard, before := time.Now(), 0
	for pause := time.Duration(0); ; {
		err := f.call()
		if f.Err() != nil || f.window.finished() {
			return nil
		}
		if fatal, ok := errors.AsType[wrong](err); ok {
			return fatal.error
		}
		next, asked, t := f.window.standing()
		if t.lines > before {
			heard, before, pause = time.Now(), t.lines, 0
		}
		if time.Since(heard) > f.patience {
			return fmt.Errorf("send: no line was taken for %s (the same command goes on where it stopped): %w", f.patience, err)
		}
		pause = min(2*pause+100*time.Millisecond, 5*time.Second)
		f.progress.pause(next, max(pause, asked), err)
		select {
		case <-time.After(max(pause, asked)):
		case <-f.Done():
		}
	}
}

var errIncomplete = errors.New("the gateway did not take all of it")

// call makes one call, from the first line that is not done to the end of the file, or to where the gateway asks to wait.
func (f *fileSend) call() error {
	ctx, leave := context.WithCancel(f)
	defer leave()
	from, to := io.Pipe()
	request, err := f.request(ctx, from)
	if err != nil {
		return err
	}
	begin := f.window.begin()
	written := make(chan error, 1)
	go func() {
		err := f.write(to, begin)
		_ = to.CloseWithError(err) // never fails
		written <- err
	}()
	err = f.exchange(request)
	f.window.halt()
	_ = from.CloseWithError(errIncomplete) // never fails; it ends a writer whom nobody reads any more
	if wrote := <-written; wrote != nil && !errors.Is(wrote, errIncomplete) {
		return wrote
	}
	if err == nil {
		err = errIncomplete
	}
	return err
}

// exchange reads the answer while the body is written.
func (f *fileSend) exchange(request *http.Request) error {
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusAccepted {
		return f.refused(answer)
	}
	lines := bufio.NewReader(answer.Body)
	for {
		text, err := lines.ReadBytes('\n')
		switch {
		case err == io.EOF && len(text) == 0:
			return nil
		case err != nil:
			return err
		}
		if err := f.take(text); err != nil {
			return err
		}
	}
}

// refused is why the gateway did not take the call: to be mended by whoever called, or worth another try.
func (f *fileSend) refused(answer *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	err := fmt.Errorf("send: HTTP status %d: %s", answer.StatusCode, bytes.TrimSpace(text))
	switch answer.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return err
	default:
		return wrong{err}
	}
}

// verdict is what is read of a line's receipt.
type verdict struct {
	Index      int         `json:"index"`
	Status     push.Status `json:"status"`
	Reason     string      `json:"reason"`
	RetryAfter float64     `json:"retry_after"`
	Replayed   bool        `json:"replayed"`
}

// again reports whether the line was not taken, and may be later: the queue was full, or the call broke off before it.
func (v verdict) again() bool {
	switch v.Reason {
	case "BodyTimeout", "BodyIncomplete", "IdempotencyKeyInUse", "QueueFull", "QueueUnavailable":
		return true
	default:
		return false
	}
}

// take notes what became of a line, and prints it if it was not accepted.
func (f *fileSend) take(text []byte) error {
	var v verdict
	if err := json.Unmarshal(text, &v); err != nil {
		return fmt.Errorf("send: an answer that is not JSON: is this a gateway? %w", err)
	}
	number := f.window.take(v)
	if number > 0 && v.Status == push.StatusRefused && !v.again() {
		say(f.stdout, "{\"line\":%d,%s\n", number, bytes.TrimSpace(text)[1:])
	}
	f.progress.show(f.window)
	return nil
}

// mostLine is the longest line that is read, far above what a gateway takes.
const mostLine = 2 << 20

// write writes the lines that are not done, from the first. It ends before the last if the gateway asks to wait.
func (f *fileSend) write(to io.Writer, l line) error {
	if _, err := f.file.Seek(l.at, io.SeekStart); err != nil {
		return wrong{err}
	}
	in, out := bufio.NewReaderSize(f.file, mostLine), bufio.NewWriterSize(to, 64<<10)
	for ; ; l = (line{number: l.number + 1, at: l.until}) {
		text, err := in.ReadSlice('\n')
		if err != nil && (err != io.EOF || len(text) == 0) {
			if err != io.EOF {
				return wrong{fmt.Errorf("send: line %d: %w", l.number, err)}
			}
			f.window.end()
			return out.Flush()
		}
		l.until = l.at + int64(len(text))
		text = bytes.TrimSpace(text)
		wanted, open := f.window.send(l, len(text) == 0)
		if !open {
			return out.Flush()
		}
		if !wanted {
			continue
		}
		if _, err := out.Write(f.keys.keyed(l.number, text)); err != nil {
			return err
		}
	}
}
