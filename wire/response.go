// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"strconv"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// maxHeaderFrames is how many frames one header block may come in. The largest
// list that is taken needs two; a peer that sends on and on means harm
// (RFC 9113 §10.5.1).
const maxHeaderFrames = 16

// headerBlock is one header block as it is being decoded.
type headerBlock struct {
	decoder   *hpack.Decoder
	stream    uint32
	endStream bool // END_STREAM was on its HEADERS
	frames    int

	status        int // zero until :status has come
	contentLength int64
	fields        []Field
	listSize      int    // as RFC 9113 §6.5.2 counts
	invalid       string // why it is malformed
}

func (b *headerBlock) reset(stream uint32, last bool) {
	*b = headerBlock{decoder: b.decoder, stream: stream, endStream: last, contentLength: -1, fields: b.fields[:0]}
}

// emit takes one decoded field. What comes after the list is too large is
// decoded for the table's sake, and dropped.
func (b *headerBlock) emit(f hpack.HeaderField) {
	b.listSize += int(f.Size())
	switch {
	case b.listSize > maxHeaderListSize || b.invalid != "":
	case f.IsPseudo():
		b.emitPseudo(f)
	case !isValidFieldName(f.Name) || !httpguts.ValidHeaderFieldValue(f.Value):
		b.invalid = "a field with a forbidden byte (RFC 9113 §8.2.1)"
	default:
		b.emitRegular(f)
	}
}

func (b *headerBlock) emitPseudo(f hpack.HeaderField) {
	status, err := strconv.ParseUint(f.Value, 10, 16)
	switch {
	case f.Name != ":status" || len(b.fields) > 0 || b.status != 0:
		b.invalid = "a pseudo-field where none belongs (RFC 9113 §8.3)"
	case err != nil || len(f.Value) != 3 || status < 100 || status == 101:
		b.invalid = "a :status that is none (RFC 9113 §8.3.2, §8.6)"
	default:
		b.status = int(status)
	}
}

func (b *headerBlock) emitRegular(f hpack.HeaderField) {
	if f.Name == "content-length" {
		n, err := strconv.ParseUint(f.Value, 10, 62)
		if err != nil || b.contentLength >= 0 && b.contentLength != int64(n) {
			b.invalid = "a content-length that is none"
			return
		}
		b.contentLength = int64(n)
	}
	b.fields = append(b.fields, Field{Name: f.Name, Value: f.Value, NeverIndexed: f.Sensitive})
}

// isValidFieldName reports whether s is a field name in lower case (RFC 9113 §8.2.1).
func isValidFieldName(s string) bool {
	for i := range len(s) {
		if !httpguts.IsTokenRune(rune(s[i])) || 'A' <= s[i] && s[i] <= 'Z' {
			return false
		}
	}
	return s != ""
}

// response copies the block out, in one allocation where it is small.
func (b *headerBlock) response() *Response {
	a := &struct {
		Response
		fields [4]Field
	}{}
	a.Status = b.status
	a.Header = append(a.fields[:0:len(a.fields)], b.fields...)
	return &a.Response
}

// handleHeaderFragment takes a part of a header block. Every block is decoded, also for a
// stream that has ended, for all share one table (RFC 9113 §4.3).
func (c *Conn) handleHeaderFragment(fragment []byte, whole bool) error {
	b := &c.block
	if b.frames++; b.frames > maxHeaderFrames {
		return protocolError{http2.ErrCodeEnhanceYourCalm, "a header block without end (RFC 9113 §10.5.1)"}
	}
	if _, err := b.decoder.Write(fragment); err != nil {
		return protocolError{http2.ErrCodeCompression, err.Error()}
	}
	if !whole {
		return nil
	}
	if err := b.decoder.Close(); err != nil {
		return protocolError{http2.ErrCodeCompression, err.Error()}
	}
	return c.handleHeaders()
}

// handleHeaders takes a whole header block: an interim answer, an answer, or the
// trailers of one (RFC 9113 §8.1).
func (c *Conn) handleHeaders() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := &c.block
	s, err := c.findStream(b.stream, "HEADERS")
	if s == nil {
		return err
	}
	s.responded = true
	switch {
	case b.listSize > maxHeaderListSize:
		c.abortStream(s, http2.ErrCodeCancel, &Error{Reason: ResponseTooLarge, EndpointAtFault: true})
	case b.invalid != "":
		c.rejectResponse(s, b.invalid)
	case s.res != nil:
		c.handleTrailers(s)
	case b.status == 0:
		c.rejectResponse(s, "no :status (RFC 9113 §8.3.2)")
	case b.status < 200 && b.endStream:
		c.rejectResponse(s, "an interim answer as the last (RFC 9113 §8.1)")
	case b.status >= 200:
		c.handleResponse(s)
	}
	return nil
}

// handleResponse takes the head of the one answer.
func (c *Conn) handleResponse(s *stream) {
	if c.serializeFirst {
		c.serializeFirst = false
		c.work.Signal()
		c.publish()
	}
	s.res = c.block.response()
	s.contentLength = c.block.contentLength
	if s.req.Method == "HEAD" || s.res.Status == 204 || s.res.Status == 304 {
		s.contentLength = -1 // it speaks of a body that is not sent (RFC 9110 §8.6)
	}
	if c.block.endStream {
		c.complete(s)
	}
}

// handleTrailers takes the end of an answer; what it says is of no use here.
func (c *Conn) handleTrailers(s *stream) {
	if !c.block.endStream || c.block.status != 0 {
		c.rejectResponse(s, "a second head (RFC 9113 §8.1)")
		return
	}
	c.complete(s)
}

func (c *Conn) handleData(f *http2.DataFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.findStream(f.StreamID, "DATA")
	if err != nil {
		return err
	}
	c.consumeInflow(int(f.Length))
	if s == nil {
		return nil
	}
	s.responded = true
	s.bodyReceived += int(f.Length)
	switch {
	case s.res == nil:
		c.rejectResponse(s, "a body before its head (RFC 9113 §8.1)")
	case s.bodyReceived > c.cfg.MaxResponseBytes:
		c.abortStream(s, http2.ErrCodeCancel, &Error{Reason: ResponseTooLarge, EndpointAtFault: true})
	default:
		s.res.Body = append(s.res.Body, f.Data()...)
		if f.StreamEnded() {
			c.complete(s)
		}
	}
	return nil
}

// complete ends s with its answer. A peer that answers before it has the whole
// request does not want the rest (RFC 9113 §8.1).
func (c *Conn) complete(s *stream) {
	if s.contentLength >= 0 && s.contentLength != int64(len(s.res.Body)) {
		c.rejectResponse(s, "a body that is not of its content-length (RFC 9113 §8.1.1)")
		return
	}
	if !s.endSent {
		c.sendReset(s.id, http2.ErrCodeCancel)
	}
	c.finish(s)
}

// rejectResponse ends s because what came is no answer (RFC 9113 §8.1.1).
func (c *Conn) rejectResponse(s *stream, why string) {
	s.res = nil
	c.abortStream(s, http2.ErrCodeProtocol, malformedResponse(why))
}
