// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"strconv"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// maxBlockFrames is how many frames one header block may come in. The largest
// list that is taken needs two; a peer that sends on and on means harm
// (RFC 9113 §10.5.1).
const maxBlockFrames = 16

// block is one header block as it is being decoded.
type block struct {
	decoder *hpack.Decoder
	stream  uint32
	last    bool // END_STREAM was on its HEADERS
	frames  int

	status int // zero until :status has come
	length int64
	fields []Field
	size   int    // as RFC 9113 §6.5.2 counts
	flaw   string // why it is malformed
}

func (b *block) begin(stream uint32, last bool) {
	*b = block{decoder: b.decoder, stream: stream, last: last, length: -1, fields: b.fields[:0]}
}

// emit takes one decoded field. What comes after the list is too large is
// decoded for the table's sake, and dropped.
func (b *block) emit(f hpack.HeaderField) {
	b.size += int(f.Size())
	switch {
	case b.size > maxHeaderList || b.flaw != "":
	case f.IsPseudo():
		b.pseudo(f)
	case !validName(f.Name) || !httpguts.ValidHeaderFieldValue(f.Value):
		b.flaw = "a field with a forbidden byte (RFC 9113 §8.2.1)"
	default:
		b.regular(f)
	}
}

func (b *block) pseudo(f hpack.HeaderField) {
	status, err := strconv.ParseUint(f.Value, 10, 16)
	switch {
	case f.Name != ":status" || len(b.fields) > 0 || b.status != 0:
		b.flaw = "a pseudo-field where none belongs (RFC 9113 §8.3)"
	case err != nil || len(f.Value) != 3 || status < 100 || status == 101:
		b.flaw = "a :status that is none (RFC 9113 §8.3.2, §8.6)"
	default:
		b.status = int(status)
	}
}

func (b *block) regular(f hpack.HeaderField) {
	if f.Name == "content-length" {
		n, err := strconv.ParseUint(f.Value, 10, 62)
		if err != nil || b.length >= 0 && b.length != int64(n) {
			b.flaw = "a content-length that is none"
			return
		}
		b.length = int64(n)
	}
	b.fields = append(b.fields, Field{Name: f.Name, Value: f.Value, Once: f.Sensitive})
}

// validName reports whether s is a field name in lower case (RFC 9113 §8.2.1).
func validName(s string) bool {
	for i := range len(s) {
		if !httpguts.IsTokenRune(rune(s[i])) || 'A' <= s[i] && s[i] <= 'Z' {
			return false
		}
	}
	return s != ""
}

// response copies the block out, in one allocation where it is small.
func (b *block) response() *Response {
	a := &struct {
		Response
		fields [4]Field
	}{}
	a.Status = b.status
	a.Header = append(a.fields[:0:len(a.fields)], b.fields...)
	return &a.Response
}

// takeBlock takes a part of a header block. Every block is decoded, also for a
// stream that has ended, for all share one table (RFC 9113 §4.3).
func (c *Conn) takeBlock(fragment []byte, whole bool) error {
	b := &c.block
	if b.frames++; b.frames > maxBlockFrames {
		return violation{http2.ErrCodeEnhanceYourCalm, "a header block without end (RFC 9113 §10.5.1)"}
	}
	if _, err := b.decoder.Write(fragment); err != nil {
		return violation{http2.ErrCodeCompression, err.Error()}
	}
	if !whole {
		return nil
	}
	if err := b.decoder.Close(); err != nil {
		return violation{http2.ErrCodeCompression, err.Error()}
	}
	return c.takeHead()
}

// takeHead takes a whole header block: an interim answer, an answer, or the
// trailers of one (RFC 9113 §8.1).
func (c *Conn) takeHead() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := &c.block
	s, err := c.find(b.stream, "HEADERS")
	if s == nil {
		return err
	}
	s.heard = true
	switch {
	case b.size > maxHeaderList:
		c.abort(s, http2.ErrCodeCancel, &Error{Reason: ResponseTooLarge, Endpoint: true})
	case b.flaw != "":
		c.refuseAnswer(s, b.flaw)
	case s.res != nil:
		c.takeTrailers(s)
	case b.status == 0:
		c.refuseAnswer(s, "no :status (RFC 9113 §8.3.2)")
	case b.status < 200 && b.last:
		c.refuseAnswer(s, "an interim answer as the last (RFC 9113 §8.1)")
	case b.status >= 200:
		c.takeAnswer(s)
	}
	return nil
}

// takeAnswer takes the head of the one answer.
func (c *Conn) takeAnswer(s *stream) {
	if c.alone {
		c.alone = false
		c.work.Signal()
		c.publish()
	}
	s.res = c.block.response()
	s.length = c.block.length
	if s.r.Method == "HEAD" || s.res.Status == 204 || s.res.Status == 304 {
		s.length = -1 // it speaks of a body that is not sent (RFC 9110 §8.6)
	}
	if c.block.last {
		c.complete(s)
	}
}

// takeTrailers takes the end of an answer; what it says is of no use here.
func (c *Conn) takeTrailers(s *stream) {
	if !c.block.last || c.block.status != 0 {
		c.refuseAnswer(s, "a second head (RFC 9113 §8.1)")
		return
	}
	c.complete(s)
}

func (c *Conn) takeData(f *http2.DataFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.find(f.StreamID, "DATA")
	if err != nil {
		return err
	}
	c.consume(int(f.Length))
	if s == nil {
		return nil
	}
	s.heard = true
	s.received += int(f.Length)
	switch {
	case s.res == nil:
		c.refuseAnswer(s, "a body before its head (RFC 9113 §8.1)")
	case s.received > c.cfg.MaxResponse:
		c.abort(s, http2.ErrCodeCancel, &Error{Reason: ResponseTooLarge, Endpoint: true})
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
	if s.length >= 0 && s.length != int64(len(s.res.Body)) {
		c.refuseAnswer(s, "a body that is not of its content-length (RFC 9113 §8.1.1)")
		return
	}
	if !s.whole {
		c.reset(s.id, http2.ErrCodeCancel)
	}
	c.finish(s)
}

// refuseAnswer ends s because what came is no answer (RFC 9113 §8.1.1).
func (c *Conn) refuseAnswer(s *stream, why string) {
	s.res = nil
	c.abort(s, http2.ErrCodeProtocol, malformed(why))
}
