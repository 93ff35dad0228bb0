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

// fileSender sends the notifications of a file, one per line, in asynchronous batch calls. If a
// call breaks off, the next call starts at the first line without a receipt. The idempotency keys
// of the lines prevent duplicates.
type fileSender struct {
	process
	client   *http.Client
	request  func(ctx context.Context, body io.Reader) (*http.Request, error)
	timeout  time.Duration // maximum time without progress
	file     *os.File
	size     int64
	keys     lineKeys
	window   *window
	progress *progress
	warned   int // receipts with warnings that were printed
}

// runFile sends the file and prints the result.
func (s sendCmd) runFile(p process) error {
	file, err := os.Open(s.File)
	if err != nil {
		return usageError{fmt.Errorf("send: %w", err)}
	}
	defer func() { _ = file.Close() }() // opened for reading only
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return usageError{fmt.Errorf("send: --file %s: must be a regular file, because sending resumes in it after a broken connection", s.File)}
	}
	f := &fileSender{
		process: p, client: s.client, timeout: s.Timeout, file: file, size: info.Size(), keys: lineKeys{info.Name(), s.As},
		window: newWindow(), progress: newProgress(p.stderr, info.Size()),
		request: func(ctx context.Context, body io.Reader) (*http.Request, error) { return s.batchRequest(ctx, body) },
	}
	err = f.run()
	t := f.progress.finish(f.window)
	switch {
	case p.Err() != nil:
		return errors.New("send: interrupted (run the same command to continue)")
	case err != nil:
		return err
	case t.refused > 0:
		return errReported
	}
	return nil
}

// run makes calls until every line is done. It gives up if no line is done within the timeout.
func (f *fileSender) run() error {
	lastProgress, lastLines := time.Now(), 0
	for pause := time.Duration(0); ; {
		err := f.sendRest()
		if f.Err() != nil || f.window.finished() {
			return nil
		}
		if fatal, ok := errors.AsType[usageError](err); ok {
			return fatal.error
		}
		next, retryAfter, t := f.window.snapshot()
		if t.lines > lastLines {
			lastProgress, lastLines, pause = time.Now(), t.lines, 0
		}
		if time.Since(lastProgress) > f.timeout {
			return fmt.Errorf("send: no line was accepted for %s (run the same command to continue): %w", f.timeout, err)
		}
		pause = min(2*pause+100*time.Millisecond, 5*time.Second)
		f.progress.showPause(next, max(pause, retryAfter), err)
		select {
		case <-time.After(max(pause, retryAfter)):
		case <-f.Done():
		}
	}
}

var errIncomplete = errors.New("the gateway did not accept all lines")

// sendRest makes one call with the lines that are not done. The call ends at the end of the file or
// when the gateway requests a wait.
func (f *fileSender) sendRest() error {
	ctx, cancel := context.WithCancel(f)
	defer cancel()
	body, w := io.Pipe()
	request, err := f.request(ctx, body)
	if err != nil {
		return err
	}
	begin := f.window.begin()
	written := make(chan error, 1)
	go func() {
		err := f.writeLines(w, begin)
		_ = w.CloseWithError(err) // never fails
		written <- err
	}()
	err = f.readReceipts(request)
	f.window.halt()
	_ = body.CloseWithError(errIncomplete) // never fails; unblocks the writer
	if writeErr := <-written; writeErr != nil && !errors.Is(writeErr, errIncomplete) && !errors.Is(writeErr, io.ErrClosedPipe) {
		return writeErr // not the end of a call that has a response already, whose error is err
	}
	if err == nil {
		err = errIncomplete
	}
	return err
}

// readReceipts sends the request and reads the receipts while the body is written.
func (f *fileSender) readReceipts(request *http.Request) error {
	response, err := f.client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusAccepted {
		return f.responseError(response)
	}
	lines := bufio.NewReader(response.Body)
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

var errNoReceipt = errors.New("send: the response has a line that is not a receipt of a gateway: check --url and the network to the gateway")

// responseError returns the error for a response that is not 202. It is a usageError if a retry
// does not help. The response of a proxy or firewall is an error like a lost connection.
func (f *fileSender) responseError(response *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if !isProblem(text) {
		return fmt.Errorf("send: %w", intermediaryError(response))
	}
	err := fmt.Errorf("send: HTTP status %d: %s", response.StatusCode, bytes.TrimSpace(text))
	switch response.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return err
	default:
		return usageError{err}
	}
}

// lineReceipt holds the members of a receipt that send reads.
type lineReceipt struct {
	Index       int         `json:"index"`
	TargetIndex *int        `json:"target_index"`
	Status      push.Status `json:"status"`
	Reason      string      `json:"reason"`
	RetryAfter  float64     `json:"retry_after"`
	Replayed    bool        `json:"replayed"`

	Warnings json.RawMessage `json:"warnings"`
}

// retryable reports whether the gateway did not accept the line but may accept it later, for
// example because the queue was full or the call broke off.
func (v lineReceipt) retryable() bool {
	switch v.Reason {
	case "BodyTimeout", "BodyIncomplete", "IdempotencyKeyInUse", "QueueFull", "QueueUnavailable", "Unauthenticated":
		return true
	default:
		return false
	}
}

// maxWarned is how many receipts with warnings are printed. Usually all lines have the same warnings.
const maxWarned = 10

// handleReceipt records a receipt. It prints it if the line was refused permanently, and the first
// ones with warnings.
func (f *fileSender) handleReceipt(text []byte) error {
	var v lineReceipt
	if json.Unmarshal(text, &v) != nil || v.Status == "" {
		return errNoReceipt
	}
	number := f.window.record(v)
	refused := v.Status == push.StatusRefused && !v.retryable()
	warned := v.Warnings != nil && f.warned < maxWarned
	if number > 0 && (refused || warned) {
		printf(f.stdout, "{\"line\":%d,%s\n", number, bytes.TrimSpace(text)[1:])
		if warned {
			f.warned++
		}
	}
	f.progress.show(f.window)
	return nil
}

// countTargets returns how many receipts a line gets. A line that the gateway refuses as a whole gets
// one without a target, whatever its lists are.
func countTargets(text []byte) int {
	var n struct{ Tokens, Installations, Subscriptions []json.RawMessage }
	if !bytes.Contains(text, []byte(`s":`)) && !bytes.Contains(text, []byte(`s" :`)) || json.Unmarshal(text, &n) != nil {
		return 1
	}
	return max(1, len(n.Tokens)+len(n.Installations)+len(n.Subscriptions))
}

// maxLine is the maximum length of a line, far above the limit of a gateway.
const maxLine = 2 << 20

// writeLines writes the lines that are not done, starting with l. It stops early if the gateway
// requests a wait.
func (f *fileSender) writeLines(w io.Writer, l line) error {
	if _, err := f.file.Seek(l.start, io.SeekStart); err != nil {
		return usageError{err}
	}
	in, out := bufio.NewReaderSize(f.file, maxLine), bufio.NewWriterSize(w, 64<<10)
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
		if l.start == 0 {
			text = bytes.TrimPrefix(text, []byte("\ufeff")) // a byte order mark, which some editors write
		}
		text = bytes.TrimSpace(text)
		send, open := f.window.admit(l, len(text) == 0, countTargets(text))
		if !open {
			return out.Flush()
		}
		if !send {
			continue
		}
		if _, err := out.Write(f.keys.withKey(l.number, text)); err != nil {
			return err
		}
	}
}
