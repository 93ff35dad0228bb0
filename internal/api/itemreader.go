// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// itemReader reads the notifications of a batch one by one, in constant memory.
type itemReader interface {
	// next returns the text of the next item, which is valid until the next call. It returns
	// errTooLong for an item that was skipped, and io.EOF after the last one. After any other error
	// there are no more items.
	next() ([]byte, error)
}

var (
	errTooLong      = errors.New("api: the item is longer than its limit")
	errTokenTooLong = errors.New("api: a string or number in the item is longer than its limit")
	errNotAnArray   = errors.New("api: the body is not one array")
)

// body is the body of a batch. There may be any time between two items, but each must arrive within
// timeout of the first read for it.
type body struct {
	r         io.Reader
	control   *http.ResponseController
	timeout   time.Duration
	remaining int       // bytes that may still be read for the item
	deadline  time.Time // of the item; zero until a read is needed for it

	beforeRead func() // called before each read, which may block

	created      time.Time
	readDeadline atomic.Int64 // deadline of the read that is in progress or has timed out, as time since created; otherwise zero
}

func newBody(r *http.Request, control *http.ResponseController, timeout time.Duration) *body {
	return &body{r: r.Body, control: control, timeout: timeout, beforeRead: func() {}, created: time.Now()}
}

// startItem starts an item of at most size bytes, not counting those that are already buffered.
func (b *body) startItem(size int) { b.remaining, b.deadline = size, time.Time{} }

// Read reads data of the current item.
func (b *body) Read(p []byte) (int, error) {
	if b.remaining == 0 {
		return 0, errTooLong
	}
	b.beforeRead()
	if b.deadline.IsZero() {
		b.deadline = time.Now().Add(b.timeout)
		_ = b.control.SetReadDeadline(b.deadline)
	}
	b.readDeadline.Store(int64(b.deadline.Sub(b.created)))
	n, err := b.r.Read(p[:min(len(p), b.remaining)])
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		b.readDeadline.Store(0)
	}
	b.remaining -= n
	return n, err
}

// Limits for reading the rest of a body that is not processed.
const (
	maxDrainBytes = 256 << 10
	drainTimeout  = 100 * time.Millisecond
)

// drain reads the rest of the body. net/http would do this after the response. But for a request
// with EnableFullDuplex, that leaves a read in progress on the connection, which then loses the
// next request.
func (b *body) drain() {
	b.startItem(maxDrainBytes)
	b.deadline = time.Now().Add(drainTimeout)
	_ = b.control.SetReadDeadline(b.deadline)
	_, _ = io.Copy(io.Discard, b)
}

// timedOut reports whether a read has timed out. It is safe for concurrent use.
func (b *body) timedOut() bool {
	deadline := b.readDeadline.Load()
	return deadline != 0 && int64(time.Since(b.created)) >= deadline
}

// lineReader reads items that are on a line each. It skips empty lines.
type lineReader struct {
	body   *body
	in     *bufio.Reader // its size is the limit of an item
	opened bool          // the first line was read
}

func (l *lineReader) next() ([]byte, error) {
	for {
		l.body.startItem(l.in.Size())
		line, err := l.in.ReadSlice('\n')
		if !l.opened {
			line, l.opened = bytes.TrimPrefix(line, byteOrderMark), true
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			return nil, l.skip()
		}
		if err != nil && (err != io.EOF || len(line) == 0) {
			return nil, err // a line before an error other than io.EOF is incomplete
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return line, nil
		}
	}
}

// skip reads to the end of a line that is too long.
func (l *lineReader) skip() error {
	for {
		l.body.remaining = l.in.Size()
		switch _, err := l.in.ReadSlice('\n'); {
		case err == nil || err == io.EOF:
			return errTooLong
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// maxSeparator is how many bytes of punctuation and white space there may be before an item of an
// array.
const maxSeparator = 1 << 10

// arrayReader reads the items of a JSON array.
type arrayReader struct {
	body    *body
	in      *jsontext.Decoder // nil before the start of the array
	maxItem int               // bytes of an item
}

func (a *arrayReader) next() ([]byte, error) {
	a.body.startItem(a.maxItem + maxSeparator)
	if a.in == nil {
		if err := a.readStart(); err != nil {
			return nil, err
		}
	}
	if a.in.PeekKind() == jsontext.KindEndArray {
		return nil, a.readEnd()
	}
	item, err := a.in.ReadValue()
	switch {
	case errors.Is(err, errTooLong):
		return nil, a.skip()
	case err != nil:
		return nil, err
	case len(item) > a.maxItem:
		return nil, errTooLong
	}
	return item, nil
}

// readStart reads the start of the array. The decoder accepts duplicate names and invalid UTF-8,
// because these are errors of a single item, which decode reports.
func (a *arrayReader) readStart() error {
	start := make([]byte, len(byteOrderMark))
	n, err := io.ReadFull(a.body, start)
	if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	start = bytes.TrimPrefix(start[:n], byteOrderMark)
	a.in = jsontext.NewDecoder(io.MultiReader(bytes.NewReader(start), a.body),
		jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	token, err := a.in.ReadToken()
	if err == nil && token.Kind() != jsontext.KindBeginArray || err == io.EOF {
		return errNotAnArray
	}
	return err
}

// readEnd checks that nothing follows the array.
func (a *arrayReader) readEnd() error {
	if _, err := a.in.ReadToken(); err != nil {
		return err
	}
	if _, err := a.in.ReadToken(); err != nil {
		return err // io.EOF in the normal case
	}
	return errNotAnArray
}

// skip reads to the end of an item that is too long, token by token. A single token that is too
// long ends the batch.
func (a *arrayReader) skip() error {
	for {
		a.body.remaining = a.maxItem
		switch _, err := a.in.ReadToken(); {
		case errors.Is(err, errTooLong):
			return errTokenTooLong
		case err != nil:
			return err
		}
		if a.in.StackDepth() == 1 {
			return errTooLong
		}
	}
}

// readerPool holds the buffers of lineReaders.
type readerPool struct{ sync.Pool }

func newReaderPool(size int) *readerPool {
	return &readerPool{sync.Pool{New: func() any { return bufio.NewReaderSize(nil, size) }}}
}

func (p *readerPool) get(r io.Reader) *bufio.Reader {
	b := p.Get().(*bufio.Reader)
	b.Reset(r)
	return b
}

func (p *readerPool) put(b *bufio.Reader) {
	b.Reset(nil)
	p.Put(b)
}
