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
	// next returns the next one's text, which is good until the call after; errTooLong for one that was skipped; and
	// io.EOF behind the last. After any other error there is no next.
	next() ([]byte, error)
}

var (
	errTooLong      = errors.New("rest: the item is longer than its limit")
	errTokenTooLong = errors.New("rest: a text or number inside the item is longer than its limit")
	errNotAnArray   = errors.New("rest: the body is not one array")
)

// body is a batch's body as it comes in. Its sender may take its time between two items, but each must be here within
// patience of being asked for.
type body struct {
	r         io.Reader
	control   *http.ResponseController
	timeout   time.Duration
	remaining int       // bytes that may still be read for the item
	deadline  time.Time // for the item; zero until something has to be read for it

	beforeRead func() // what must not wait for a read

	created      time.Time
	readDeadline atomic.Int64 // deadline of the read that is under way or ran out of time, counted from born; else zero
}

func newBody(r *http.Request, control *http.ResponseController, patience time.Duration) *body {
	return &body{r: r.Body, control: control, timeout: patience, beforeRead: func() {}, created: time.Now()}
}

// startItem starts an item of at most size bytes beyond those that are read already.
func (b *body) startItem(size int) { b.remaining, b.deadline = size, time.Time{} }

// Read reads for the item that was begun.
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

// What may be left of a body that was given up, and how long it may take to come.
const (
	maxDrainBytes = 256 << 10
	drainTimeout  = 100 * time.Millisecond
)

// drain reads what is left. net/http would read it after the answer; but of a request that is answered while it comes in
// (EnableFullDuplex), that leaves a read under way on the connection, over which the next request on it is lost.
func (b *body) drain() {
	b.startItem(maxDrainBytes)
	b.deadline = time.Now().Add(drainTimeout)
	_ = b.control.SetReadDeadline(b.deadline)
	_, _ = io.Copy(io.Discard, b)
}

// timedOut reports whether a read has run out of time. It may be asked from another goroutine.
func (b *body) timedOut() bool {
	due := b.readDeadline.Load()
	return due != 0 && int64(time.Since(b.created)) >= due
}

// lineReader are items that stand on a line each; empty lines are none.
type lineReader struct {
	body *body
	in   *bufio.Reader // as large as an item may be
}

func (l *lineReader) next() ([]byte, error) {
	for {
		l.body.startItem(l.in.Size())
		line, err := l.in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return nil, l.skip()
		}
		if err != nil && (err != io.EOF || len(line) == 0) {
			return nil, err // what precedes an error other than io.EOF is half a line
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

// arrayReader is items in a JSON array.
type arrayReader struct {
	body    *body
	in      *jsontext.Decoder
	maxItem int // bytes of an item
	opened  bool
}

// newArray reads loosely: names given twice and invalid UTF-8 are the fault of one item, which decode will find.
func newArray(b *body, most int) *arrayReader {
	return &arrayReader{body: b, maxItem: most, in: jsontext.NewDecoder(b,
		jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))}
}

func (a *arrayReader) next() ([]byte, error) {
	a.body.startItem(a.maxItem)
	if !a.opened {
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

func (a *arrayReader) readStart() error {
	token, err := a.in.ReadToken()
	if err == nil && token.Kind() != jsontext.KindBeginArray || err == io.EOF {
		return errNotAnArray
	}
	a.opened = true
	return err
}

// readEnd makes sure that nothing follows the array.
func (a *arrayReader) readEnd() error {
	if _, err := a.in.ReadToken(); err != nil {
		return err
	}
	if _, err := a.in.ReadToken(); err != nil {
		return err // io.EOF, if all is well
	}
	return errNotAnArray
}

// skip reads to the end of an item that is too long, token by token. A single token that is too long ends the batch.
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

// readerPool keeps the buffers of lines.
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
