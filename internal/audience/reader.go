// SPDX-License-Identifier: Apache-2.0

package audience

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"

	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/push"
)

// Format is the format of an upload.
type Format string

// The formats.
const (
	NDJSON Format = "ndjson" // a JSON object on each line
	CSV    Format = "csv"    // RFC 4180 with a header, without line breaks in fields
)

// FormatOf returns the format of a Content-Type.
func FormatOf(contentType string) (f Format, ok bool) {
	media, _, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
		return "", false
	case media == "application/x-ndjson":
		return NDJSON, true
	case media == "text/csv":
		return CSV, true
	}
	return "", false
}

// Position is the start of a line in an upload. The zero value is the start of the upload.
type Position struct {
	Offset int64  `json:"offset"` // bytes before it
	Line   uint32 `json:"line"`   // lines before it
	// Columns are those of the header of CSV; nil if it was not read.
	Columns []string `json:"columns,omitempty"`
}

// ReaderConfig configures a Reader. Format is required.
type ReaderConfig struct {
	Format Format
	// Platform is that of lines that have none. If it is "", each line must have one.
	Platform push.Platform
	// From is the position at which the input starts.
	From Position
	// Partial is set if the upload may be continued. A last line without a line break is then not read.
	Partial bool
}

// Reader reads the recipients of an upload. Its memory does not depend on the size of the upload. A
// Reader must not be used by several goroutines at once.
type Reader struct {
	cfg  ReaderConfig
	in   *bufio.Reader
	next Position
	csv  *csvParser
	json jsonParser
	tags tagCache
	err  error // final
}

// NewReader returns a reader of an upload.
func NewReader(in io.Reader, cfg ReaderConfig) *Reader {
	r := &Reader{cfg: cfg, in: bufio.NewReaderSize(in, MaxLine), next: cfg.From}
	if cfg.From.Columns != nil {
		r.csv, r.err = newCSVParser(cfg.From.Columns)
	}
	return r
}

// Position returns where the next line starts. A Reader that is created with it continues there.
func (r *Reader) Position() Position { return r.next }

// Next reads the next recipient and returns its line, counted from 1. It does not check whether the
// target is valid for the platform, which only its provider knows. Empty lines are skipped. A
// *LineError means that the line cannot be sent; then the next call reads the next line. Other errors
// are final: io.EOF at the end, a *HeaderError, io.ErrUnexpectedEOF if an upload that may be continued
// ends within a line, or an error of the input. After the last two, Position is the start of the line
// that was not read.
func (r *Reader) Next(to *Recipient) (line uint32, err error) {
	for r.err == nil {
		text, err := r.readLine()
		switch {
		case err != nil && !errors.Is(err, errLineTooLong):
			r.err = err
			return 0, err
		case r.cfg.Format == CSV && r.csv == nil && (err != nil || len(text) > 0):
			r.err = r.readHeader(text, err)
		case err != nil:
			return r.next.Line, NewLineError(r.next.Line, err)
		case len(text) > 0:
			return r.next.Line, r.parse(text, to)
		}
	}
	return 0, r.err
}

var (
	errLineTooLong error = &strictjson.Error{Reason: LineTooLong, Detail: fmt.Sprintf("must have at most %d bytes", MaxLine)}
	byteOrderMark        = []byte("\xef\xbb\xbf")
)

// readLine returns the next line without white space around it. The text is valid until the next call.
func (r *Reader) readLine() ([]byte, error) {
	text, err := r.in.ReadSlice('\n')
	size := len(text)
	for errors.Is(err, bufio.ErrBufferFull) {
		var more []byte
		more, err = r.in.ReadSlice('\n')
		size += len(more)
		text = nil
	}
	if err == io.EOF && size > 0 {
		if err = nil; r.cfg.Partial {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		return nil, err
	}
	if r.next.Offset == 0 {
		text = bytes.TrimPrefix(text, byteOrderMark)
	}
	r.next.Offset += int64(size)
	r.next.Line++
	if size > MaxLine || text == nil {
		return nil, errLineTooLong
	}
	return bytes.TrimSpace(text), nil
}

// readHeader reads the header of CSV.
func (r *Reader) readHeader(text []byte, err error) error {
	if err == nil {
		r.next.Columns, err = parseHeader(text)
	}
	if err == nil {
		r.csv, err = newCSVParser(r.next.Columns)
	}
	if err != nil {
		return &HeaderError{*NewLineError(r.next.Line, err)}
	}
	return nil
}

// HeaderError says why the header of CSV is invalid, so that no line can be read.
type HeaderError struct{ LineError }

// parse parses a line into to.
func (r *Reader) parse(text []byte, to *Recipient) error {
	*to = Recipient{}
	var err error
	if r.cfg.Format == CSV {
		err = r.csv.parse(text, to)
	} else {
		err = r.json.parse(text, to)
	}
	if err == nil {
		err = to.check(&r.cfg, &r.tags)
	}
	if err != nil {
		return NewLineError(r.next.Line, err)
	}
	return nil
}
