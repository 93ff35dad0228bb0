// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
)

// body is a response body. Its buffers are reused for the next response.
type body struct {
	*http.Response
	extend      func() error // extends the deadline of the call
	lines       *bufio.Reader
	linesActive bool // lines reads the current response
	buffer      bytes.Buffer
}

// handle passes a response to a function, and then reads the rest of it.
func (b *body) handle(r *http.Response, extend func() error, handle func(status int, body *body) error) error {
	defer func() { _ = r.Body.Close() }()
	b.Response, b.extend, b.linesActive = r, extend, false
	b.buffer.Reset()
	if err := handle(r.StatusCode, b); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, r.Body)
	return err
}

// readLine returns the next line without its line end, or io.EOF. The line is valid until the next
// call.
func (b *body) readLine() ([]byte, error) {
	if b.lines == nil {
		b.lines = bufio.NewReaderSize(nil, 64<<10)
	}
	if !b.linesActive {
		b.lines.Reset(b.Body)
		b.linesActive = true
	}
	line, err := b.lines.ReadSlice('\n')
	if len(line) == 0 {
		return nil, err
	}
	return bytes.TrimSpace(line), b.extend()
}

// readAll returns the whole body. It is valid until the next response.
func (b *body) readAll() ([]byte, error) {
	const limit = 16 << 20
	if _, err := b.buffer.ReadFrom(io.LimitReader(b.Body, limit+1)); err != nil {
		return nil, err
	}
	if b.buffer.Len() > limit {
		return nil, errors.New("the response is longer than 16 MiB")
	}
	return b.buffer.Bytes(), nil
}
