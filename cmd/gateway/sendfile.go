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

// fileSender sends the notifications of a file, one on each line, in calls that nobody waits for. A call that breaks off is
// followed by another, which begins where the answers stopped; the keys of the lines keep any from being sent twice.
type fileSender struct {
	process
	request  func(ctx context.Context, body io.Reader) (*http.Request, error)
	timeout  time.Duration // without an answer
	file     *os.File
	size     int64
	keys     lineKeys
	window   *window
	progress *progress
}

// runFile sends the file and tells how it went.
func (s sendCmd) runFile(p process) error {
	file, err := os.Open(s.File)
	if err != nil {
		return usageError{fmt.Errorf("send: %w", err)}
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return usageError{fmt.Errorf("send: --file %s: must be a regular file, for a broken connection is resumed in it", s.File)}
	}
	f := &fileSender{
		process: p, timeout: s.Timeout, file: file, size: info.Size(), keys: lineKeys{info.Name(), s.As},
		window: newWindow(), progress: newProgress(p.stderr, info.Size()),
		request: func(ctx context.Context, body io.Reader) (*http.Request, error) { return s.batchRequest(ctx, body) },
	}
	err = f.run()
	t := f.progress.finish(f.window)
	switch {
	case p.Err() != nil:
		return errors.New("send: interrupted; the same command goes on where it stopped")
	case err != nil:
		return err
	case t.refused > 0:
		return errReported
	}
	return nil
}

// run makes calls until every line is done, as long as they get somewhere.
func (f *fileSender) run() error {
	heard, before := time.Now(), 0
	for pause := time.Duration(0); ; {
		err := f.sendRest()
		if f.Err() != nil || f.window.finished() {
			return nil
		}
		if fatal, ok := errors.AsType[usageError](err); ok {
			return fatal.error
		}
		next, asked, t := f.window.snapshot()
		if t.lines > before {
			heard, before, pause = time.Now(), t.lines, 0
		}
		if time.Since(heard) > f.timeout {
			return fmt.Errorf("send: no line was taken for %s (the same command goes on where it stopped): %w", f.timeout, err)
		}
		pause = min(2*pause+100*time.Millisecond, 5*time.Second)
		f.progress.showPause(next, max(pause, asked), err)
		select {
		case <-time.After(max(pause, asked)):
		case <-f.Done():
		}
	}
}

var errIncomplete = errors.New("the gateway did not take all of it")

// sendRest makes one call, from the first line that is not done to the end of the file, or to where the gateway asks to wait.
func (f *fileSender) sendRest() error {
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
		err := f.writeLines(to, begin)
		_ = to.CloseWithError(err) // never fails
		written <- err
	}()
	err = f.readReceipts(request)
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

// readReceipts reads the answer while the body is written.
func (f *fileSender) readReceipts(request *http.Request) error {
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusAccepted {
		return f.responseError(answer)
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
		if err := f.handleReceipt(text); err != nil {
			return err
		}
	}
}

// responseError is why the gateway did not take the call: to be mended by whoever called, or worth another try.
func (f *fileSender) responseError(answer *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	err := fmt.Errorf("send: HTTP status %d: %s", answer.StatusCode, bytes.TrimSpace(text))
	switch answer.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return err
	default:
		return usageError{err}
	}
}

// lineReceipt is what is read of a line's receipt.
type lineReceipt struct {
	Index      int         `json:"index"`
	Status     push.Status `json:"status"`
	Reason     string      `json:"reason"`
	RetryAfter float64     `json:"retry_after"`
	Replayed   bool        `json:"replayed"`
}

// retryable reports whether the line was not taken, and may be later: the queue was full, or the call broke off before it.
func (v lineReceipt) retryable() bool {
	switch v.Reason {
	case "BodyTimeout", "BodyIncomplete", "IdempotencyKeyInUse", "QueueFull", "QueueUnavailable":
		return true
	default:
		return false
	}
}

// handleReceipt notes what became of a line, and prints it if it was not accepted.
func (f *fileSender) handleReceipt(text []byte) error {
	var v lineReceipt
	if err := json.Unmarshal(text, &v); err != nil {
		return fmt.Errorf("send: an answer that is not JSON: is this a gateway? %w", err)
	}
	number := f.window.record(v)
	if number > 0 && v.Status == push.StatusRefused && !v.retryable() {
		printf(f.stdout, "{\"line\":%d,%s\n", number, bytes.TrimSpace(text)[1:])
	}
	f.progress.show(f.window)
	return nil
}

// maxLine is the longest line that is read, far above what a gateway takes.
const maxLine = 2 << 20

// writeLines writes the lines that are not done, from the first. It ends before the last if the gateway asks to wait.
func (f *fileSender) writeLines(to io.Writer, l line) error {
	if _, err := f.file.Seek(l.start, io.SeekStart); err != nil {
		return usageError{err}
	}
	in, out := bufio.NewReaderSize(f.file, maxLine), bufio.NewWriterSize(to, 64<<10)
	for ; ; l = (line{number: l.number + 1, start: l.end}) {
		text, err := in.ReadSlice('\n')
		if err != nil && (err != io.EOF || len(text) == 0) {
			if err != io.EOF {
				return usageError{fmt.Errorf("send: line %d: %w", l.number, err)}
			}
			f.window.markEOF()
			return out.Flush()
		}
		l.end = l.start + int64(len(text))
		text = bytes.TrimSpace(text)
		wanted, open := f.window.admit(l, len(text) == 0)
		if !open {
			return out.Flush()
		}
		if !wanted {
			continue
		}
		if _, err := out.Write(f.keys.withKey(l.number, text)); err != nil {
			return err
		}
	}
}
