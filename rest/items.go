// SPDX-License-Identifier: Apache-2.0

package rest

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

// items reads the notifications of a batch one by one, in constant memory.
type items interface {
	// next returns the next one's text, which is good until the call after; errTooLong for one that was skipped; and
	// io.EOF behind the last. After any other error there is no next.
	next() ([]byte, error)
}

var (
	errTooLong    = errors.New("rest: the item is longer than its limit")
	errEndless    = errors.New("rest: a text or number inside the item is longer than its limit")
	errNotAnArray = errors.New("rest: the body is not one array")
)

// body is a batch's body as it comes in. Its sender may take its time between two items, but each must be here within
// patience of being asked for.
type body struct {
	from     io.Reader
	control  *http.ResponseController
	patience time.Duration
	left     int       // bytes that may still be read for the item
	deadline time.Time // for the item; zero until something has to be read for it

	beforeRead func() // what must not wait for a read

	born time.Time
	due  atomic.Int64 // deadline of the read that is under way or ran out of time, counted from born; else zero
}

func newBody(r *http.Request, control *http.ResponseController, patience time.Duration) *body {
	return &body{from: r.Body, control: control, patience: patience, beforeRead: func() {}, born: time.Now()}
}

// begin starts an item of at most size bytes beyond those that are read already.
func (b *body) begin(size int) { b.left, b.deadline = size, time.Time{} }

// Read reads for the item that was begun.
func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errTooLong
	}
	b.beforeRead()
	if b.deadline.IsZero() {
		b.deadline = time.Now().Add(b.patience)
		_ = b.control.SetReadDeadline(b.deadline)
	}
	b.due.Store(int64(b.deadline.Sub(b.born)))
	n, err := b.from.Read(p[:min(len(p), b.left)])
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		b.due.Store(0)
	}
	b.left -= n
	return n, err
}

// What may be left of a body that was given up, and how long it may take to come.
const (
	mostRest     = 256 << 10
	restPatience = 100 * time.Millisecond
)

// drain reads what is left. net/http would read it after the answer; but of a request that is answered while it comes in
// (EnableFullDuplex), that leaves a read under way on the connection, over which the next request on it is lost.
func (b *body) drain() {
	b.begin(mostRest)
	b.deadline = time.Now().Add(restPatience)
	_ = b.control.SetReadDeadline(b.deadline)
	_, _ = io.Copy(io.Discard, b)
}

// late reports whether a read has run out of time. It may be asked from another goroutine.
func (b *body) late() bool {
	due := b.due.Load()
	return due != 0 && int64(time.Since(b.born)) >= due
}

// lines are items that stand on a line each; empty lines are none.
type lines struct {
	body *body
	in   *bufio.Reader // as large as an item may be
}

func (l *lines) next() ([]byte, error) {
	for {
		l.body.begin(l.in.Size())
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
func (l *lines) skip() error {
	for {
		l.body.left = l.in.Size()
		switch _, err := l.in.ReadSlice('\n'); {
		case err == nil || err == io.EOF:
			return errTooLong
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// array is items in a JSON array.
type array struct {
	body *body
	in   *jsontext.Decoder
	most int // bytes of an item
	open bool
}

// newArray reads loosely: names given twice and invalid UTF-8 are the fault of one item, which decode will find.
func newArray(b *body, most int) *array {
	return &array{body: b, most: most, in: jsontext.NewDecoder(b,
		jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))}
}

func (a *array) next() ([]byte, error) {
	a.body.begin(a.most)
	if !a.open {
		if err := a.begin(); err != nil {
			return nil, err
		}
	}
	if a.in.PeekKind() == jsontext.KindEndArray {
		return nil, a.end()
	}
	item, err := a.in.ReadValue()
	switch {
	case errors.Is(err, errTooLong):
		return nil, a.skip()
	case err != nil:
		return nil, err
	case len(item) > a.most:
		return nil, errTooLong
	}
	return item, nil
}

func (a *array) begin() error {
	token, err := a.in.ReadToken()
	if err == nil && token.Kind() != jsontext.KindBeginArray || err == io.EOF {
		return errNotAnArray
	}
	a.open = true
	return err
}

// end makes sure that nothing follows the array.
func (a *array) end() error {
	if _, err := a.in.ReadToken(); err != nil {
		return err
	}
	if _, err := a.in.ReadToken(); err != nil {
		return err // io.EOF, if all is well
	}
	return errNotAnArray
}

// skip reads to the end of an item that is too long, token by token. A single token that is too long ends the batch.
func (a *array) skip() error {
	for {
		a.body.left = a.most
		switch _, err := a.in.ReadToken(); {
		case errors.Is(err, errTooLong):
			return errEndless
		case err != nil:
			return err
		}
		if a.in.StackDepth() == 1 {
			return errTooLong
		}
	}
}

// pool keeps the buffers of lines.
type pool struct{ sync.Pool }

func newPool(size int) *pool {
	return &pool{sync.Pool{New: func() any { return bufio.NewReaderSize(nil, size) }}}
}

func (p *pool) get(r io.Reader) *bufio.Reader {
	b := p.Get().(*bufio.Reader)
	b.Reset(r)
	return b
}

func (p *pool) put(b *bufio.Reader) {
	b.Reset(nil)
	p.Put(b)
}
